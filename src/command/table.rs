//! Columns.

use console::measure_text_width;

/// Writes rows in columns as wide as their widest cell; the last column is left as it is.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
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
        text.push_str(line.trim_end());
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
        assert_eq!(columns(&rows), "a    bb  c\naaa  b   cc\n");
    }
}
