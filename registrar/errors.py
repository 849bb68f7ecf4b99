"""What goes wrong when DingTalk is asked, named for what the caller does about it. Pure: no Django, no I/O."""


class DingTalkError(Exception):
    """Root of this app's errors: one line of cause and next step, with DingTalk's own code and words, no secret."""

    retryable = False

    def __init__(self, code: str, words: str = "", cause: str = "", step: str = "") -> None:
        super().__init__(code, words, cause, step)
        self.code, self.words, self.cause, self.step = code, words, cause, step

    def __str__(self) -> str:
        said = " ".join(part for part in (self.code, self.words) if part)
        advice = "; ".join(part for part in (self.cause, self.step) if part)
        return ": ".join(part for part in (said, advice) if part)


class SettingsUnfit(DingTalkError):
    """A setting or an argument is missing or can't be right; nothing was asked."""


class TokenExpired(DingTalkError):
    """The access token is no longer good: renew it and call again."""


class PermissionMissing(DingTalkError):
    """The app may not call this: apply for the scope, or use another API."""


class AlreadyRegistered(DingTalkError):
    """A callback is registered: update it instead."""


class NotRegistered(DingTalkError):
    """No callback is registered through the API: register one, if it isn't the console's."""


class InstanceUnknown(DingTalkError):
    """DingTalk doesn't know this approval instance (any more)."""


class Refused(DingTalkError):
    """A final answer: asking again changes nothing until somebody mends the cause."""


class QuotaUsedUp(Refused):
    """The organisation's calls of this month are used up: nothing is answered until the next month or a package."""


class QuotaSpared(DingTalkError):
    """So many of the month's calls are used that the rest is left to approval instances; nothing was asked."""


class TemporaryFailure(DingTalkError):
    """Nothing is wrong with the request: ask again later."""

    retryable = True


class Throttled(TemporaryFailure):
    """Too many calls in a short time: wait before asking again.

    `until`: when the penalty ends (seconds since the epoch), as DingTalk names it; 0 where it doesn't.
    """

    until = 0.0


class NotReached(TemporaryFailure):
    """No answer came: the connection failed or took too long."""


class BrokenAnswer(TemporaryFailure):
    """An answer that is no whole JSON object."""


class ListHeld(TemporaryFailure):
    """Somebody else is reading the failed list; two readers would erase each other's pages."""
