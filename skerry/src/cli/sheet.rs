//! Rows under columns, for people or for programs.

use serde_json::{Map, Value};

use super::Format;

pub struct Sheet {
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Sheet {
    pub fn new(columns: &'static [&'static str]) -> Sheet {
        Sheet { columns, rows: Vec::new() }
    }

    /// One value a column.
    pub fn row(&mut self, values: Vec<Value>) {
        self.rows.push(values);
    }

    /// By the text of the first columns, so that two listings can be compared.
    pub fn sorted(mut self) -> Sheet {
        self.rows.sort_by_cached_key(|row| row.iter().map(text).collect::<Vec<_>>());
        self
    }

    pub fn print(&self, format: Format) {
        match format {
            Format::Json => println!("{:#}", Value::Array(self.objects())),
            Format::Table => print!("{}", self.table()),
        }
    }

    pub fn objects(&self) -> Vec<Value> {
        let object = |row: &Vec<Value>| {
            let pairs = self.columns.iter().zip(row).map(|(name, value)| ((*name).to_owned(), value.clone()));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }

    /// Names in capitals, then the rows; two blanks between columns.
    pub fn table(&self) -> String {
        let header = self.columns.iter().map(|name| name.to_uppercase()).collect();
        let lines: Vec<Vec<String>> = std::iter::once(header)
            .chain(self.rows.iter().map(|row| row.iter().map(text).collect()))
            .collect();
        let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut all = String::new();
        for line in &lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
            all.push_str(cells.collect::<String>().trim_end());
            all.push('\n');
        }
        all
    }
}

/// A value as a cell.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sheet_is_a_table_for_people_and_objects_for_programs() {
        let mut sheet = Sheet::new(&["address", "flags"]);
        sheet.row(vec![json!("10.96.0.10"), json!(["a", "b"])]);
        sheet.row(vec![json!("10.96.0.1"), json!([])]);
        let sheet = sheet.sorted();
        assert_eq!(sheet.table(), "ADDRESS     FLAGS\n10.96.0.1   -\n10.96.0.10  a,b\n");
        assert_eq!(sheet.objects()[1], json!({"address": "10.96.0.10", "flags": ["a", "b"]}));
    }
}
