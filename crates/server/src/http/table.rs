//! Columns of text, two spaces apart.

/// One line a row, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    rows.iter().map(|row| line(row, &widths)).collect()
}

fn line<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let cells = row.iter().zip(widths);
    let padded: Vec<String> = cells.map(|(cell, &width)| format!("{cell:<width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_in_spaces() {
        let rows = [["A", "STATE", "C"], ["client10", "on", "x"], ["é", "offline", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        let expected = "A         STATE    C\nclient10  on       x\né         offline\n";
        assert_eq!(table(&rows), expected);
    }
}
