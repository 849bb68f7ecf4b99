"""`doctor`: tell whether everything is as it must be for events to arrive and be carried."""

from registrar.doctor import examine
from registrar.management.verbs.report import Options, Report, Verb, no_arguments, table


def _doctor(options: Options) -> Report:
    findings = list(examine())
    shown = table("", "looked at", "seen", "remedy")
    for each in findings:
        shown.add_row("ok" if each.fine else "WRONG", each.name, each.seen, each.remedy)
    wrong = sum(not each.fine for each in findings)
    data = {"fine": not wrong, "findings": [each._asdict() for each in findings]}
    if wrong:
        return Report(data, [shown], refusal=f"wrong: {wrong}; the table names the remedies, mend the first one first")
    return Report(data, [shown, "All is well."])


DOCTOR = Verb(
    "doctor",
    "look at settings, database, callback, token, registration, worker, failed list and API calls (spends two calls)",
    "manage.py dingtalk doctor",
    no_arguments,
    _doctor,
    needs_settings=False,
)
