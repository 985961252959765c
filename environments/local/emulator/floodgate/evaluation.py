"""CloudWatch's alarms are judged every second, with the metric's own dimensions and with what a period without data
means; the emulator looks only when data come, at all metrics of a name, and so never ends an alarm by silence.
A change of state is told to EventBridge.
"""

import json
import logging
import threading
import time
from datetime import datetime, timezone

from ministack.core import responses
from ministack.services import cloudwatch, eventbridge, lambda_svc

from floodgate import alarms

logger = logging.getLogger("floodgate.alarms")

EVERY_SECONDS = 1.0

# What is older is rolled up to minutes: a metric that is told every second would fill the memory otherwise.
KEEP_SECONDS = 300
ROLL_UP_EVERY_SECONDS = 60

# What each alarm was told to be last, by ARN, for the event of its next change.
TOLD = {}


def value_of(alarm, points):
    if not points:
        return None
    stats = cloudwatch._calc_stats(points)
    name = alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average"
    return cloudwatch._stat_value(stats, name, points) if stats else None


def judge(alarm, now):
    """The state that an alarm should have, and why; None for one that is not of a metric."""
    breaches = alarms.BREACHES.get(alarm.get("ComparisonOperator"))
    if not breaches or not alarm.get("MetricName"):
        return None
    dimensions = cloudwatch._dims_key(cloudwatch._dims_from_list(alarm.get("Dimensions") or []))
    points = cloudwatch._metrics.get((alarm["Namespace"], alarm["MetricName"], dimensions)) or []
    needed, period = alarm.get("EvaluationPeriods", 1), alarm.get("Period", 60)
    to_alarm = alarm.get("DatapointsToAlarm") or needed
    treatment = alarm.get("TreatMissingData") or "missing"
    threshold = alarm.get("Threshold", 0)
    periods = alarms.periods_of(list(points), now, period, needed + alarms.PERIODS_BEYOND)
    values = [value_of(alarm, points) for points in periods]
    state = alarms.state_after(
        values, needed, to_alarm, treatment, lambda value: breaches[0](value, threshold), alarm["StateValue"])
    why = alarms.reason(state, values, needed, to_alarm, treatment, threshold, alarm["ComparisonOperator"])
    data = {
        "version": "1.0", "queryDate": timestamp(now), "statistic": alarm.get("Statistic"), "period": period,
        "recentDatapoints": [value for value in values[:needed] if value is not None][::-1], "threshold": threshold,
    }
    return state, why, data


def evaluate(alarm, now=None):
    """Gives an alarm the state that it should have, and tells of a change whoever wants to know."""
    judged = judge(alarm, time.time() if now is None else now)
    if judged is None or judged[0] == alarm["StateValue"]:
        return
    former, (state, why, data) = alarm["StateValue"], judged
    alarm["StateValue"], alarm["StateReason"], alarm["StateReasonData"] = state, why, json.dumps(data)
    alarm["StateUpdatedTimestamp"] = int(time.time())
    cloudwatch._record_history(alarm["AlarmName"], former, state, why, reason_data=data)
    cloudwatch._dispatch_alarm_actions(alarm, former, state, why)
    cloudwatch._evaluate_parent_alarms(alarm)


def timestamp(seconds):
    """As the events of alarms have it: `2019-10-02T17:04:40.985+0000`."""
    at = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}+0000"


def configuration(alarm):
    if alarm.get("AlarmRule"):
        return {"alarmRule": alarm["AlarmRule"], "description": alarm.get("AlarmDescription", "")}
    return {
        "description": alarm.get("AlarmDescription", ""),
        "metrics": [{
            "id": "m1",
            "metricStat": {
                "metric": {
                    "dimensions": cloudwatch._dims_from_list(alarm.get("Dimensions") or []),
                    "name": alarm.get("MetricName"),
                    "namespace": alarm.get("Namespace"),
                },
                "period": alarm.get("Period", 60),
                "stat": alarm.get("ExtendedStatistic") or alarm.get("Statistic"),
            },
            "returnData": True,
        }],
    }


def tell_event_bus(alarm, former, state, why):
    """Publishes `CloudWatch Alarm State Change`, as CloudWatch does whether or not actions are enabled."""
    now = {"value": state, "reason": why, "timestamp": timestamp(time.time())}
    if alarm.get("StateReasonData"):
        now["reasonData"] = alarm["StateReasonData"]
    before = TOLD.get(alarm["AlarmArn"])
    if before is None or before["value"] != former:
        before = {"value": former}
    TOLD[alarm["AlarmArn"]] = now
    eventbridge._ensure_default_bus()
    eventbridge._put_events({"Entries": [{
        "Source": "aws.cloudwatch",
        "DetailType": "CloudWatch Alarm State Change",
        "Resources": [alarm["AlarmArn"]],
        "Detail": json.dumps({
            "alarmName": alarm["AlarmName"],
            "configuration": configuration(alarm),
            "previousState": before,
            "state": now,
        }),
    }]}, allow_aws_source=True)


def roll_up(now):
    for key, points in list(cloudwatch._metrics._data.items()):
        minutes, recent = alarms.rolled_up(points, now, KEEP_SECONDS)
        if all(len(minute) == 1 for minute in minutes.values()):
            continue
        rolled = []
        for minute, old in sorted(minutes.items()):
            stats = cloudwatch._calc_stats(old)
            if stats:
                rolled.append({
                    "Timestamp": minute * 60.0, "Unit": old[0].get("Unit", "None"),
                    "Dimensions": old[0].get("Dimensions", {}), "Value": stats["Average"], "_stat": stats,
                })
        # Points that came meanwhile are at the end of the same list.
        points[:len(points)] = rolled + recent + points[len(recent) + sum(map(len, minutes.values())):]


def evaluate_all():
    for (account, region, _), alarm in list(cloudwatch._alarms._data.items()):
        responses.set_request_account_id(account)
        responses.set_request_region(region)
        try:
            evaluate(alarm)
        except Exception:
            logger.exception("alarm %s cannot be judged", alarm.get("AlarmName"))


def keep_evaluating():
    rolled_up_at = time.monotonic()
    while True:
        time.sleep(EVERY_SECONDS)
        evaluate_all()
        if time.monotonic() - rolled_up_at >= ROLL_UP_EVERY_SECONDS:
            roll_up(time.time())
            rolled_up_at = time.monotonic()


def install():
    """Puts this in the place of what the emulator does, and begins with the first request or the saved state."""
    cloudwatch._evaluate_alarm = evaluate
    cloudwatch._evaluate_all_alarms = lambda: None
    tell_topics = cloudwatch._dispatch_alarm_actions

    def tell(alarm, former, state, why):
        tell_topics(alarm, former, state, why)
        tell_event_bus(alarm, former, state, why)

    cloudwatch._dispatch_alarm_actions = tell

    def invoke(arn, payload):
        # By way of the asynchronous invocation, which tries again and knows where failures go: a function that takes
        # one event at a time would lose the second of two alarms otherwise.
        function, configured, name = lambda_svc._get_func_record_for_ref(arn)
        if not function or not configured:
            logger.warning("a rule's function %s is not there", name)
            return
        lambda_svc.invoke_async_with_retry(
            lambda_svc._execution_record_for_config(function, configured), json.loads(payload))

    eventbridge._dispatch_to_lambda = invoke


def start():
    threading.Thread(target=keep_evaluating, daemon=True, name="floodgate-alarms").start()
