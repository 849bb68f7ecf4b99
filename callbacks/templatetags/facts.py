"""What the admin's templates ask of `callbacks.display` and the outbox."""

from django import template

from callbacks import display, outbox

register = template.Library()
register.simple_tag(outbox.unattended, name="unattended")
register.simple_tag(display.badge, name="badge")
register.filter("moment", display.moment)
register.filter("pretty", display.pretty)
register.filter("preformatted", display.preformatted)
register.filter("next_attempt", display.next_attempt)
register.filter("took", display.took)
register.filter("last_line", display.last_line)
