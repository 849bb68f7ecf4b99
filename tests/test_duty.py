"""A duty is held by one process at a time, and is taken over when its holder is not heard of any more."""

from datetime import timedelta
from threading import Barrier

import pytest
from django.db import OperationalError
from django.db.models.functions import Now

from callbacks import duty
from callbacks.models import Duty
from tests.owed import in_threads


@pytest.mark.django_db
def test_one_holds_a_duty_at_a_time_and_each_duty_is_its_own() -> None:
    with duty.hold("feeder"):
        with pytest.raises(duty.DutyHeld, match="feeder"), duty.hold("feeder"):
            pass
        with duty.hold("poller"):
            assert Duty.objects.exclude(lease_token=None).count() == 2
    with duty.hold("feeder") as renew:
        renew()


@pytest.mark.django_db
def test_a_duty_is_given_back_whatever_ends_the_block() -> None:
    with pytest.raises(OperationalError), duty.hold("feeder"):
        raise OperationalError("the database went away")
    assert Duty.objects.get().leased_until is None


@pytest.mark.django_db
def test_a_holder_that_is_not_heard_of_is_replaced_and_learns_it() -> None:
    with duty.hold("feeder") as renew:
        Duty.objects.update(leased_until=Now())
        with duty.hold("feeder"), pytest.raises(duty.DutyHeld, match="took"):
            renew()
    with duty.hold("feeder"):
        pass


@pytest.mark.django_db
def test_a_lease_ends_within_a_minute_and_one_beyond_that_is_a_wrong_clocks() -> None:
    with duty.hold("feeder"):
        assert Duty.objects.filter(leased_until__lte=Now() + timedelta(seconds=60)).exists()
        Duty.objects.update(leased_until=Now() + timedelta(days=365))
        with duty.hold("feeder"):
            pass


@pytest.mark.django_db(transaction=True)
def test_of_many_who_want_it_at_once_one_gets_it() -> None:
    tried = Barrier(6)

    def want(number: int) -> bool:
        try:
            with duty.hold("feeder"):
                tried.wait(20)
                return True
        except duty.DutyHeld:
            tried.wait(20)
            return False

    assert sum(in_threads(6, want)) == 1
