//! What the demo prints.

use std::time::Duration;

use super::server::Server;

/// One request and what came of it.
pub struct Row {
    /// The client's program.
    pub client: &'static str,
    /// The name that was asked for.
    pub host: &'static str,
    /// Whose certificate answered, or how it was refused.
    pub answer: String,
    /// What carried it, by the router's access log.
    pub datapath: String,
    /// Time from the client's start to the first byte of the response.
    pub first_byte: Option<Duration>,
    /// What is not as it must be.
    pub wrong: Vec<String>,
}

impl Row {
    /// Whether all is as it must be.
    pub fn is_right(&self) -> bool {
        self.wrong.is_empty()
    }

    /// Whether it was carried, but not by this datapath.
    pub fn is_carried_otherwise(&self, datapath: &str) -> bool {
        self.first_byte.is_some() && self.datapath != datapath
    }

    fn cells(&self) -> [String; COLUMNS] {
        let dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        let time = self
            .first_byte
            .map(|time| format!("{:.1} ms", time.as_secs_f64() * 1e3));
        [
            self.client.to_owned(),
            self.host.to_owned(),
            self.answer.clone(),
            dash(&self.datapath),
            time.unwrap_or_else(|| "-".to_owned()),
            if self.is_right() {
                "ok".to_owned()
            } else {
                format!("WRONG: {}", self.wrong.join("; "))
            },
        ]
    }
}

/// The rows as a table.
pub fn render(rows: &[Row]) -> String {
    let head = [
        "client",
        "host",
        "certificate that answered",
        "datapath",
        "first byte",
        "",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let mut widths = [0; COLUMNS];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += &format!("  {}\n", cells.join("  ").trim_end());
        if number == 0 {
            text += &format!(
                "  {}\n",
                widths.map(|width| "-".repeat(width)).join("  ").trim_end()
            );
        }
    }
    text
}

/// What the table shows, and why nothing can have been decrypted.
pub fn notes(servers: &[Server], listener_certificate: &str) -> String {
    let mut text =
        "Nothing was decrypted: each client met the certificate of the server itself, whose key\n\
                    exists only in the backends' namespace (SHA-256):\n"
            .to_owned();
    for server in servers {
        text += &format!("  {}  {}\n", server.fingerprint, server.site.host);
    }
    text += &format!("  {listener_certificate}  bound to the Listener, seen by no client\n");
    text += "openssl's time to the first byte includes the start of its process.\n";
    text
}

const COLUMNS: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(wrong: &[&str]) -> Row {
        Row {
            client: "curl",
            host: "a.test",
            answer: "0123… of a.test".to_owned(),
            datapath: "sockmap".to_owned(),
            first_byte: Some(Duration::from_micros(1_500)),
            wrong: wrong.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn columns_are_aligned_when_cells_differ_in_length() {
        let text = render(&[
            row(&[]),
            Row {
                client: "openssl s_client",
                ..row(&[])
            },
        ]);
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "  curl              a.test  0123… of a.test            sockmap   1.5 ms      ok",
                "  openssl s_client  a.test  0123… of a.test            sockmap   1.5 ms      ok",
            ]
        );
    }

    #[test]
    fn wrong_row_says_what_is_wrong() {
        let row = row(&["one", "two"]);
        assert!(!row.is_right());
        assert!(render(&[row]).contains("WRONG: one; two"));
    }

    #[test]
    fn other_datapath_is_noticed_only_on_carried_connections() {
        assert!(row(&[]).is_carried_otherwise("userspace"));
        assert!(!row(&[]).is_carried_otherwise("sockmap"));
        assert!(
            !Row {
                first_byte: None,
                ..row(&[])
            }
            .is_carried_otherwise("userspace")
        );
    }
}
