"""A message starts its delivery once at most, and only while its lease lasts."""

from uuid import uuid4

import pytest
from django.db.models.functions import Now
from django.utils.timezone import now

from callbacks import handover, outbox
from callbacks.models import LEASE, Delivery
from tests.owed import WORKER, attempts, claimed, expire_leases, in_threads, owe

pytestmark = pytest.mark.django_db(transaction=True)


def published() -> Delivery:
    """Owe and claim, as the feeder does before it publishes."""
    return claimed(owe("shop_plain", processInstanceId="P1"))


def start(delivery: Delivery) -> Delivery | None:
    assert delivery.lease_token
    return handover.start(delivery.pk, delivery.lease_token)


def test_of_many_copies_of_a_message_one_starts_the_delivery() -> None:
    delivery = published()

    started = [each for each in in_threads(6, lambda _: start(delivery)) if each]

    assert len(started) == 1
    assert outbox.attempt(started[0], WORKER)
    assert start(delivery) is None
    assert [outcome for outcome, _ in attempts(delivery)] == ["delivered"]


def test_a_message_that_comes_when_the_lease_has_ended_starts_nothing() -> None:
    delivery = published()
    expire_leases()

    assert start(delivery) is None
    again = claimed(delivery)
    assert start(delivery) is None, "it is the old claim's message"
    assert start(again)


def test_a_lease_that_is_renewed_lasts_until_the_message_is_started_and_no_longer() -> None:
    delivery = published()
    assert delivery.lease_token
    unstarted = {delivery.pk: delivery.lease_token}
    Delivery.objects.update(leased_until=Now() + LEASE / 10)

    handover.renew(unstarted)

    held = Delivery.objects.get(pk=delivery.pk)
    assert held.leased_until
    assert held.leased_until > now() + LEASE / 2
    started = start(delivery)
    assert started
    Delivery.objects.update(leased_until=Now() + LEASE / 10)
    handover.renew(unstarted)
    outbox.renew([started])  # it is for whoever started it to renew it
    assert handover.tokens([delivery.pk]) == {delivery.pk: handover.started_token(delivery.lease_token)}


def test_what_is_given_back_is_due_at_once_and_its_message_starts_nothing() -> None:
    delivery = published()
    assert delivery.lease_token

    assert handover.give_back({delivery.pk: delivery.lease_token}) == 1

    assert start(delivery) is None
    assert Delivery.objects.due().get() == delivery
    assert Delivery.objects.get().attempts == 0


def test_what_was_started_is_not_given_back() -> None:
    delivery = published()
    assert delivery.lease_token
    assert start(delivery)

    assert handover.give_back({delivery.pk: delivery.lease_token}) == 0
    assert not Delivery.objects.due().exists()


def test_while_a_message_waits_no_other_of_its_subject_is_claimed() -> None:
    first = published()
    second = owe("shop_plain", processInstanceId="P1")

    assert outbox.claim(10) == []
    started = start(first)
    assert started
    outbox.attempt(started, WORKER)
    assert [each.pk for each in outbox.claim(10)] == [second.pk]


def test_a_token_that_nobody_gave_starts_nothing() -> None:
    delivery = owe("shop_plain")
    assert handover.start(delivery.pk, uuid4()) is None
    assert handover.start(delivery.pk + 1, uuid4()) is None
