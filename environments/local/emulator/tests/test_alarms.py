"""The tables of CloudWatch's guide, "Configuring how CloudWatch alarms treat missing data", and periods."""

import unittest

from floodgate import alarms

# Data points oldest first (`-` missing, `0` well, `X` breaching), and the states for missing, ignore, breaching and
# notBreaching. RETAIN is the state of before.
OK, ALARM, UNKNOWN, RETAIN = alarms.OK, alarms.ALARM, alarms.UNKNOWN, "retained"
THREE_OF_THREE = {
    "0-X-X": (OK, OK, OK, OK),
    "----0": (OK, OK, OK, OK),
    "-----": (UNKNOWN, RETAIN, ALARM, OK),
    "0XX-X": (ALARM, ALARM, ALARM, ALARM),
    "--X--": (ALARM, RETAIN, ALARM, OK),
}
TWO_OF_THREE = {
    "0-X-X": (ALARM, ALARM, ALARM, ALARM),
    "00X0X": (ALARM, ALARM, ALARM, ALARM),
    "0-X--": (OK, OK, ALARM, OK),
    "----0": (OK, OK, ALARM, OK),
    "----X": (ALARM, RETAIN, ALARM, OK),
}


def state_after(text, to_alarm, treatment):
    values = [{"-": None, "0": 0.0, "X": 1.0}[letter] for letter in reversed(text)]
    return alarms.state_after(values, 3, to_alarm, treatment, lambda value: value > 0.5, RETAIN)


class Alarms(unittest.TestCase):
    def test_missing_data_means_what_the_guide_says(self):
        for to_alarm, table in ((3, THREE_OF_THREE), (2, TWO_OF_THREE)):
            for text, expected in table.items():
                found = tuple(
                    state_after(text, to_alarm, treatment)
                    for treatment in ("missing", "ignore", "breaching", "notBreaching")
                )
                self.assertEqual(found, expected, f"{text}, {to_alarm} of 3")

    def test_a_point_belongs_to_the_period_of_its_age(self):
        points = [{"Timestamp": at, "Value": at} for at in (100.0, 109.9, 110.0, 119.0, 120.0, 121.0)]
        periods = alarms.periods_of(points, 120.0, 10, 2)
        ages = [[point["Value"] for point in period] for period in periods]
        self.assertEqual(ages, [[119.0, 120.0], [109.9, 110.0]])

    def test_old_points_become_one_a_minute_and_none_is_lost(self):
        points = [{"Timestamp": float(at), "Value": 1.0} for at in range(600)]
        minutes, recent = alarms.rolled_up(points, 600.0, 300)
        self.assertEqual(len(recent), 299)
        self.assertEqual(sum(map(len, minutes.values())) + len(recent), 600)
        self.assertEqual(sorted(minutes), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])

    def test_a_reason_tells_points_and_threshold(self):
        told = alarms.reason(ALARM, [99.5, None, None], 1, 1, "missing", 40.0, "GreaterThanThreshold")
        self.assertIn("1 datapoint [99.5] was greater than the threshold (40.0)", told)
        told = alarms.reason(OK, [None] * 3, 1, 1, "notBreaching", 40.0, "GreaterThanThreshold")
        self.assertIn("1 missing datapoint was treated as [NonBreaching]", told)


if __name__ == "__main__":
    unittest.main()
