"""When the failed list is to be read: every so often, once after each lapse, and later after each failure."""

from datetime import timedelta

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from callbacks import lapse
from registrar.models import FailedListWatch

DEFAULT_INTERVAL = 21_600
LEAST_INTERVAL = 600
# An entry shows up 3 to 5 minutes after the second retry, which comes 40 s after the push.
AFTER_LAPSE = timedelta(minutes=6)
BETWEEN_LAPSES = timedelta(minutes=10)
# So often a lapse may turn out to be none before the next ones are given more and more time: an address on the
# internet is posted to by others than DingTalk, too.
TRUSTED_IN_VAIN = 3
# What a reader that dies leaves is taken up so soon.
AFTER_DEATH = timedelta(seconds=60)
AFTER_FAILURE = timedelta(minutes=5)


def due(interval: int) -> bool:
    """Tell whether it is time to read the failed list, which is to be read every `interval` seconds."""
    watch, _ = FailedListWatch.objects.get_or_create(pk=1)
    allowed = FailedListWatch.objects.filter(Q(not_before=None) | Q(not_before__lte=Now()))
    never_or_failed = Q(read_at=None) | Q(failures__gt=0)
    if allowed.filter(never_or_failed | Q(read_at__lte=Now() - timedelta(seconds=interval))).exists():
        return True
    distance = min(BETWEEN_LAPSES * 2 ** max(watch.in_vain - TRUSTED_IN_VAIN, 0), timedelta(seconds=interval))
    return allowed.filter(read_at__lte=Now() - distance).exists() and lapse.begun(AFTER_LAPSE)


def begin() -> None:
    """Record that the list is being read; a reader that is not heard of again counts as one that failed."""
    FailedListWatch.objects.get_or_create(pk=1)
    FailedListWatch.objects.update(read_at=Now(), failures=F("failures") + 1, not_before=Now() + AFTER_DEATH)


def succeeded(new: int) -> None:
    """Record that the list was read to its end, and brought so many new events."""
    with transaction.atomic():
        in_vain = F("in_vain") + 1 if not new and lapse.begun(AFTER_LAPSE) else 0
        FailedListWatch.objects.update(failures=0, not_before=None, in_vain=in_vain)
        lapse.made_up_for(AFTER_LAPSE)


def failed(interval: int, at_least: timedelta = timedelta(0)) -> timedelta:
    """Record that the list could not be read, and return how long it is left alone: longer after each failure."""
    failures = FailedListWatch.objects.values_list("failures", flat=True).get(pk=1)
    doublings = min(max(failures - 1, 0), 20)
    wait = max(min(AFTER_FAILURE * 2.0**doublings, timedelta(seconds=interval)), at_least)
    FailedListWatch.objects.update(not_before=Now() + wait)
    return wait
