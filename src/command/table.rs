//! Columns.

use console::{Term, measure_text_width, truncate_str};

/// Writes rows in columns for standard output; on a terminal, lines are cut to its width.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let terminal = Term::stdout();
    let width = if terminal.is_term() { terminal.size_checked() } else { None };
    columns_within(rows, width.map_or(usize::MAX, |(_, width)| width.into()))
}

/// Columns are as wide as their widest cell.
fn columns_within<const N: usize>(rows: &[[String; N]], longest: usize) -> String {
    let width = |at: usize| rows.iter().map(|row| measure_text_width(&row[at])).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let missing = width - measure_text_width(cell);
            line.push_str(cell);
            line.push_str(&" ".repeat(missing + 2));
        }
        text.push_str(&truncate_str(line.trim_end(), longest, "…"));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_line_up() {
        let rows = [["a", "bb", "c"], ["aaa", "b", "cc"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(columns_within(&rows, usize::MAX), "a    bb  c\naaa  b   cc\n");
        assert_eq!(columns_within(&rows, 9), "a    bb …\naaa  b  …\n");
    }
}
