//! A course over time in plain text.

/// Rows of a chart.
const ROWS: usize = 8;

/// A series with the character that draws it.
pub(super) struct Series<'a> {
    pub(super) mark: char,
    pub(super) values: &'a [f64],
}

/// Draws series above one another; where they meet stands `*`. All are as long as the longest.
pub(super) fn chart(title: &str, series: &[Series<'_>], last_seconds: u64) -> String {
    let width = series.iter().map(|series| series.values.len()).max().unwrap_or(0);
    let most = series.iter().flat_map(|series| series.values).copied().fold(0.0, f64::max);
    let mut text = format!("{title}\n");
    let row_of = |value: f64| if most > 0.0 { (value / most * ROWS as f64).ceil() as usize } else { 0 };
    for row in (1..=ROWS).rev() {
        let label = if row == ROWS { super::report::number(most) } else { String::new() };
        let mut line = format!("{label:>9} |");
        for column in 0..width {
            let mut mark = ' ';
            for series in series {
                let value = series.values.get(column).copied().unwrap_or(0.0);
                if row_of(value) == row {
                    mark = if mark == ' ' { series.mark } else { '*' };
                }
            }
            line.push(mark);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    // What is 0 lies on the axis.
    let end = super::report::clock(last_seconds);
    text.push_str(&format!("{:>9} +{}\n", 0, "-".repeat(width)));
    text.push_str(&format!(
        "{:>11}0:00{end:>width$}\n",
        "",
        width = width.saturating_sub(4).max(end.len() + 1)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_meets_is_marked_and_zero_lies_on_the_axis() {
        let drawn = chart(
            "x",
            &[Series { mark: 'o', values: &[0.0, 4.0, 8.0] }, Series { mark: 'p', values: &[0.0, 4.0, 2.0] }],
            120,
        );
        let rows: Vec<&str> = drawn.lines().collect();
        assert_eq!(rows[1], "        8 |  o");
        assert_eq!(rows[5], "          | *");
        assert_eq!(rows[7], "          |  p");
        assert_eq!(rows[9], "        0 +---");
        assert!(chart("x", &[Series { mark: 'o', values: &[] }], 0).contains("0 +"));
    }
}
