"""How CloudWatch judges an alarm, on plain data: "Configuring how CloudWatch alarms treat missing data" in its guide.

Periods are counted back from the moment of judging instead of from full minutes, so that a change shows as soon as a
period can tell it.
"""

OK, ALARM, UNKNOWN = "OK", "ALARM", "INSUFFICIENT_DATA"

# CloudWatch looks at more periods than an alarm counts, to have enough data points where some are missing. How many
# more, the guide says only by example: two.
PERIODS_BEYOND = 2

BREACHES = {
    "GreaterThanOrEqualToThreshold": (lambda value, threshold: value >= threshold, "greater than or equal to"),
    "GreaterThanThreshold": (lambda value, threshold: value > threshold, "greater than"),
    "LessThanThreshold": (lambda value, threshold: value < threshold, "less than"),
    "LessThanOrEqualToThreshold": (lambda value, threshold: value <= threshold, "less than or equal to"),
}


def periods_of(points, now, period, count):
    """The points of the last periods, newest period first. A point has a `Timestamp`, in seconds."""
    periods = [[] for _ in range(count)]
    for point in points:
        age = now - point["Timestamp"]
        if 0 <= age < period * count:
            periods[int(age // period)].append(point)
    return periods


def state_after(values, needed, to_alarm, treatment, breaches, state):
    """The state that follows from the values of the periods that are looked at, newest first, None where there is no
    data. `needed` values count, `to_alarm` of them must breach.
    """
    known = [value for value in values if value is not None][:needed]
    bad = sum(1 for value in known if breaches(value))
    good = len(known) - bad
    missing = needed - len(known)
    if treatment == "breaching":
        return ALARM if bad + missing >= to_alarm else OK
    if treatment == "notBreaching":
        return ALARM if bad >= to_alarm else OK
    if not known:
        return state if treatment == "ignore" else UNKNOWN
    if bad >= to_alarm:
        return ALARM
    if missing and not good:
        return state if treatment == "ignore" else ALARM
    return OK


def reason(state, values, needed, to_alarm, treatment, threshold, operator):
    """Why, in the words of CloudWatch."""
    known = [value for value in values if value is not None][:needed]
    points = f"{len(known)} datapoint{'' if len(known) == 1 else 's'}"
    if not known and state == UNKNOWN:
        return f"Insufficient Data: {needed} datapoint{' was' if needed == 1 else 's were'} unknown."
    if not known:
        treated = {"breaching": "Breaching", "notBreaching": "NonBreaching"}.get(treatment, treatment)
        return (
            f"Threshold Crossed: no datapoints were received for {needed} period{'' if needed == 1 else 's'} and "
            f"{needed} missing datapoint{' was' if needed == 1 else 's were'} treated as [{treated}]."
        )
    verb = "was" if len(known) == 1 else "were"
    negation = "" if state == ALARM else " not"
    words = BREACHES[operator][1]
    return (
        f"Threshold Crossed: {points} {known} {verb}{negation} {words} the threshold ({threshold}) "
        f"(minimum {to_alarm} for OK -> ALARM transition)."
    )


def rolled_up(points, now, keep_seconds, span_seconds=60):
    """Points that are older than `keep_seconds` become one statistic set a minute, as CloudWatch rolls them up."""
    recent, minutes = [], {}
    for point in points:
        if now - point["Timestamp"] < keep_seconds:
            recent.append(point)
        else:
            minutes.setdefault(point["Timestamp"] // span_seconds, []).append(point)
    return minutes, recent
