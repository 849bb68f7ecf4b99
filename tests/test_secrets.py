"""Secrets in rows: encrypted there, decrypted only where they are used, rotated, and read after a change of keys."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from callbacks import circuit, rotation
from callbacks.endpoint import SECRETS
from callbacks.fields import Unreadable
from callbacks.inbox import receive
from callbacks.keys import new_aes_key, new_token, new_webhook_secret
from callbacks.models import Delivery, Endpoint
from tests.owed import carry, carry_due, in_threads, payload, waiting_for_locks
from tests.processes import wait_until
from tests.settings import DATABASE
from tests.subscriber import Subscriber, sealing, sent

pytestmark = pytest.mark.django_db
OLD, NEW = "an-old-key-of-at-least-32-characters", "a-new-key-of-at-least-32-characters!"


def made(**fields: Any) -> Endpoint:
    values = {"name": "ERP", "url": "http://127.0.0.1:1/", "format": "standard", **fields}
    return Endpoint.objects.create(**values)


def stored(endpoint: Endpoint) -> str:
    """Return the row as a dump of the database shows it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM callbacks_endpoint WHERE id = %s", [endpoint.pk])
        return json.dumps(cursor.fetchall(), default=str)


def test_a_row_shows_no_secret_and_the_row_read_again_has_them() -> None:
    endpoint = made(previous_secret="whsec_before", token="plain-token")
    secrets = [endpoint.secret, endpoint.previous_secret, endpoint.token, endpoint.aes_key]

    read = Endpoint.objects.get(pk=endpoint.pk)

    assert not any(secret in stored(endpoint) for secret in secrets)
    assert [read.secret, read.previous_secret, read.token, read.aes_key] == secrets
    assert read.secret.startswith("whsec_")
    assert (len(read.aes_key), read.token) == (43, "plain-token")


@pytest.mark.parametrize("token", ["fernet:", "fernet:typed-by-hand", "fernet:gAAAAA=="])
def test_a_secret_that_begins_like_an_encrypted_one_is_encrypted_too(token: str) -> None:
    endpoint = made(token=token)
    assert f'"{token}"' not in stored(endpoint)
    assert Endpoint.objects.get().token == token


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(DATABASE != "postgresql", reason="SQLite has no row locks")
def test_of_two_rotations_at_the_same_time_one_is_refused() -> None:
    endpoint = made(secret="whsec_known")
    ready = threading.Event()

    def work(number: int) -> str:
        if not number:
            with transaction.atomic():
                Endpoint.objects.select_for_update().get()
                ready.set()
                wait_until(lambda: waiting_for_locks() == 2)
            return "waited for"
        assert ready.wait(10)
        try:
            rotation.rotate(endpoint)
        except rotation.RotationUnderWay:
            return "refused"
        return "rotated"

    assert sorted(in_threads(3, work)) == ["refused", "rotated", "waited for"]
    assert "whsec_known" in Endpoint.objects.get().signing_secrets()


def test_a_dump_by_django_shows_no_secret_and_can_be_loaded() -> None:
    endpoint = made()
    out = io.StringIO()
    call_command("dumpdata", "callbacks.endpoint", stdout=out)
    assert endpoint.secret not in out.getvalue()

    secret = endpoint.secret
    endpoint.delete()
    (fields,) = (each["fields"] for each in json.loads(out.getvalue()))
    assert Endpoint.objects.create(**fields).pk
    assert Endpoint.objects.get().secret == secret


@pytest.mark.django_db(transaction=True)
def test_a_dump_of_the_database_shows_no_secret_whoever_gave_it(admin_client: Client) -> None:
    names = ["secret", "token", "aes_key"]
    given = [{"secret": new_webhook_secret(), "token": new_token(), "aes_key": new_aes_key()} for _ in range(3)]
    made(**given[0], name="made by code", format="dingtalk")
    options = [f"--{name.replace('_', '-')}={given[1][name]}" for name in names]
    call_command("endpoint", "add", "made by command", "http://127.0.0.1:1/", *options, stdout=io.StringIO())
    form = {f"new_{name}": given[2][name] for name in names} | {"where": "{}", "timeout": "1", "concurrency": "1"}
    admin_client.post(
        "/admin/callbacks/endpoint/add/",
        {"name": "made by admin", "url": "http://127.0.0.1:1/", "format": "standard", **form},
    )
    rows = list(Endpoint.objects.all())
    assert [{name: getattr(row, name) for name in names} for row in rows] == given

    for row in rows:
        call_command("endpoint", "rotate", str(row.pk), stdout=io.StringIO())
    admin_client.post(f"/admin/callbacks/endpoint/{rows[2].pk}/rotate/")
    receive(payload("label_user_change"))
    carry_due()

    secrets = {value for each in given for value in each.values()}
    secrets |= {getattr(row, name) for row in Endpoint.objects.all() for name in SECRETS}
    dump = dumped()
    assert all(name in dump for name in ("made by code", "made by command", "made by admin"))
    assert not [secret for secret in secrets if secret and secret in dump]


def dumped() -> str:
    """Return everything that the database holds: SQLite's file, or all rows of all of PostgreSQL's tables."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return Path(connection.settings_dict["NAME"]).read_bytes().decode("latin-1")
        found = []
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT "{table}"::text FROM "{table}"')
            found += [row for (row,) in cursor.fetchall()]
        return "\n".join(found)


def test_a_push_reads_no_secret() -> None:
    made(event_types=["label_*"])
    with CaptureQueriesContext(connection) as queries:
        receive(payload("label_user_change"))

    asked = [query["sql"] for query in queries if "callbacks_endpoint" in query["sql"]]
    assert asked
    assert not any(name in sql for sql in asked for name in ("secret", "token", "aes_key"))


@pytest.mark.parametrize("keys", [[], [OLD]])
def test_what_was_encrypted_before_a_key_came_first_is_still_read(keys: list[str], settings: Settings) -> None:
    settings.FIELD_ENCRYPTION_KEYS = keys
    endpoint = made()
    before = stored(endpoint)
    settings.FIELD_ENCRYPTION_KEYS = [NEW, *keys]
    assert Endpoint.objects.get().secret == endpoint.secret

    assert [problem for _, problem in rotation.reencrypt()] == [""]
    settings.FIELD_ENCRYPTION_KEYS = [NEW]
    settings.SECRET_KEY = "another-secret-key-" * 4

    assert Endpoint.objects.get().secret == endpoint.secret
    assert stored(endpoint) != before


def test_a_secret_key_of_before_still_reads(settings: Settings) -> None:
    endpoint = made()
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another-secret-key-" * 4

    assert Endpoint.objects.get().secret == endpoint.secret


def test_an_unreadable_secret_marks_its_endpoint_and_leaves_the_deliveries(settings: Settings) -> None:
    settings.FIELD_ENCRYPTION_KEYS = [OLD]
    with Subscriber() as erp:
        lost = made(url=erp.url)
        settings.FIELD_ENCRYPTION_KEYS = [NEW]
        well = made(url=erp.url)
        delivery = sent(lost)
        carry_due()

        delivery.refresh_from_db()
        lost.refresh_from_db(fields=["last_error", "rests_until", "enabled", "paused"])
        assert (delivery.state, delivery.attempts) == ("pending", 0)
        assert delivery.last_error == lost.last_error
        assert not delivery.attempt_set.exists()
        assert "FIELD_ENCRYPTION_KEYS" in lost.last_error
        assert (lost.condition, bool(lost.rests_until)) == ("failing", True)
        assert Delivery.objects.get(destination=well.destination).state == "delivered"
        assert [problem != "" for _, problem in rotation.reencrypt()] == [True, False]
        with pytest.raises(Unreadable):
            assert Endpoint.objects.get(pk=lost.pk).secret

        settings.FIELD_ENCRYPTION_KEYS = [NEW, OLD]
        Endpoint.objects.update(rests_until=None)
        assert carry(delivery).state == "delivered"


def test_a_secret_that_cannot_sign_is_held_too() -> None:
    delivery = carry(sent(made(secret="whsec_!")))

    assert (delivery.state, delivery.attempts) == ("pending", 0)
    assert "endpoint rotate" in delivery.last_error


def test_rotating_signs_with_both_until_it_is_finished() -> None:
    with Subscriber() as erp:
        endpoint = made(url=erp.url)
        new = rotation.rotate(endpoint)["secret"]
        carry(sent(endpoint))
        rotation.finish(endpoint)
        carry(sent(endpoint))

    during, after = erp.requests
    assert during.verified(endpoint.secret) == during.verified(new)
    assert after.verified(new)
    assert len(after.headers["webhook-signature"].split()) == 1


def test_rotating_dingtalks_form_gives_a_new_pair() -> None:
    endpoint = made(format="dingtalk")
    pair = rotation.rotate(endpoint)
    endpoint = Endpoint.objects.get()
    assert (endpoint.token, endpoint.aes_key) == (pair["token"], pair["aes_key"])
    assert endpoint.paused, "it would send what its receiver can't open"
    with Subscriber(sealing(endpoint)) as oa:
        Endpoint.objects.update(url=oa.url)
        delivery = sent(endpoint)
        circuit.resume(endpoint)
        assert carry(delivery).state == "delivered"


def test_a_second_rotation_waits_for_the_end_of_the_first() -> None:
    endpoint = made()
    first = rotation.rotate(endpoint)["secret"]
    with pytest.raises(rotation.RotationUnderWay, match="--finish"):
        rotation.rotate(endpoint)
    assert endpoint.signing_secrets() == [first, endpoint.secret]

    rotation.finish(endpoint)
    with pytest.raises(rotation.NoRotation):
        rotation.finish(endpoint)


def test_nothing_is_sent_unsigned() -> None:
    with Subscriber() as erp:
        delivery = carry(sent(made(url=erp.url, secret="")))

    assert erp.requests == []
    assert (delivery.state, delivery.attempts) == ("pending", 0)
    assert "it has no secret" in delivery.last_error


def test_a_filter_decides_what_is_owed() -> None:
    everything = made()
    narrow = made(event_types=["org_dept_*", "label_a"], corp_ids=["corp1"], where={"kind": ["x", 2]})
    made(event_types=["label_b"])

    def owed(event_type: str, **fields: Any) -> set[str]:
        receipt = receive(payload(event_type, **fields))
        return set(Delivery.objects.filter(event=receipt.event_id).values_list("destination", flat=True))

    assert owed("label_a", CorpId="corp1", KIND="x") == {everything.destination, narrow.destination}
    assert owed("label_a", CorpId="corp1", kind=2) == {everything.destination, narrow.destination}
    assert owed("label_a", CorpId="corp2", kind="x") == {everything.destination}
    assert owed("label_a", CorpId="corp1", kind="y") == {everything.destination}
    assert owed("label_c", CorpId="corp1", kind="x") == {everything.destination}


def test_a_filter_without_sense_stops_no_push() -> None:
    endpoint = made(event_types={"a": 1}, corp_ids="corp1", where=["x"])
    receive(payload("label_a", CorpId="corp1"))

    assert Delivery.objects.get().destination == endpoint.destination
