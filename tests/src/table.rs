//! What `kubectl get` prints, as rows of named cells.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// One row: a cell by its column's name.
pub type Row = BTreeMap<String, String>;

/// Reads a table with its header. Columns begin where their names begin.
///
/// # Errors
/// When there is no header, or a cell runs into the next.
pub fn rows(table: &str) -> Result<Vec<Row>> {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let columns = columns(header);
    ensure!(!columns.is_empty(), "no table: {table:?}");
    let names = || columns.iter().map(|(name, _)| name.clone());
    let row = |line: &str| names().zip(split(&columns, line)).collect();
    Ok(lines.filter(|line| !line.trim().is_empty()).map(row).collect())
}

/// The cells of one line below these columns. A line of a watch may have wider ones than its header: there
/// two spaces end a cell.
pub(crate) fn split(columns: &[(String, usize)], line: &str) -> Vec<String> {
    let begins_apart = |(_, start): &(String, usize)| {
        start.checked_sub(1).and_then(|before| line.as_bytes().get(before)).is_none_or(|byte| *byte == b' ')
    };
    if !columns.iter().all(begins_apart) {
        return line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
    }
    let cell = |(index, (_, start)): (usize, &(String, usize))| {
        let end = columns.get(index + 1).map_or(line.len(), |(_, end)| *end).min(line.len());
        line.get(*start.min(&line.len())..end).unwrap_or_default().trim().to_owned()
    };
    columns.iter().enumerate().map(cell).collect()
}

/// Names have single spaces in them; two or more end a column.
pub(crate) fn columns(header: &str) -> Vec<(String, usize)> {
    let mut columns = Vec::new();
    let mut at = 0;
    for part in header.split("   ") {
        let name = part.trim();
        if !name.is_empty() {
            let start = at + part.len() - part.trim_start().len();
            columns.push((name.to_owned(), start));
        }
        at += part.len() + 3;
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_found_below_their_columns() {
        let text = "NAME     TYPE        EXTERNAL-IP   PORT(S)          READINESS GATES\n\
                    web      NodePort    <none>        8080:30001/TCP   <none>\n\
                    a        ClusterIP   <none>        443/TCP          <none>\n";
        let rows = rows(text).unwrap();
        assert_eq!(rows[0]["PORT(S)"], "8080:30001/TCP");
        assert_eq!(rows[1]["NAME"], "a");
        assert_eq!(rows[1]["READINESS GATES"], "<none>");
        let watched = "NAME   READY   STATUS    RESTARTS   AGE\na      0/1     Pending   0          0s\n\
                       a      0/1     ContainerCreating   0          0s\n";
        let rows = super::rows(watched).unwrap();
        assert_eq!((rows[1]["STATUS"].as_str(), rows[1]["AGE"].as_str()), ("ContainerCreating", "0s"));
    }
}
