"""A grader of one's own: two answers are the same if they name the same day."""

import re

MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()


def day(answer):
    "Return day and month, as `5 mar`, whatever their form: 5 March, March 5th, the 5th of March."
    months = [word[:3] for word in re.findall("[a-z]+", answer.lower()) if word[:3] in MONTHS]
    days = re.findall(r"\d+", answer)
    return f"{int(days[0])} {months[0]}" if len(months) == len(days) == 1 else None
