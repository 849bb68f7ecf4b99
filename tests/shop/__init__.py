"""An app of somebody else's, installed in the tests beside the service's own."""
