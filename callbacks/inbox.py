"""Store each event once, together with every delivery it is owed to; the only writer of Event."""

from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from callbacks.models import Delivery, Event
from callbacks.payload import Payload
from callbacks.routing import router


@dataclass(frozen=True)
class Receipt:
    """What `receive` did: the event's id, whether it is new, and how many deliveries it is owed to."""

    event_id: int
    is_new: bool
    deliveries: int


def receive(payload: Payload, source: str = Event.Source.CALLBACK) -> Receipt:
    """Store the event and its deliveries in one transaction, unless its identity is there already.

    Raises django.db.Error where the database can't store it; then nothing is stored.
    """
    handlers = router.wanting(payload.event_type, payload.data)
    try:
        with transaction.atomic():
            event = Event.objects.create(
                event_type=payload.event_type,
                corp_id=payload.corp_id,
                identity=payload.identity,
                subject=payload.subject,
                payload=payload.data,
                body=payload.body,
                source=source,
            )
            Delivery.objects.bulk_create(
                Delivery(
                    event=event, destination=handler.destination, subject=payload.subject, next_attempt_at=Now()
                )
                for handler in handlers
            )
    except IntegrityError:
        # Either another request stored the same identity first, or the row itself was refused: then there is no row
        # of that identity, and acknowledging it would lose the event.
        stored = Event.objects.filter(identity=payload.identity).values_list("pk", flat=True).first()
        if stored is None:
            raise
        return Receipt(stored, is_new=False, deliveries=0)
    return Receipt(event.pk, is_new=True, deliveries=len(handlers))
