"""A DingTalk to run on your own machine: for development, the demo and the tests."""
