//! What a report's page is made of.

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Serialize, Serializer};

/// The page, with a place for the data.
const PAGE: &str = include_str!("page.html");
const PLACE: &str = "DATA_GOES_HERE";

#[derive(Serialize)]
pub struct Report {
    pub title: String,
    pub about: String,
    pub parts: Vec<Part>,
    pub config: String,
}

impl Report {
    /// One HTML file that needs nothing else.
    pub fn page(&self) -> Result<String> {
        // Inside a script element, nothing may look like its end.
        let data = serde_json::to_string(self)?.replace("</", "<\\/").replace("<!--", "<\\u0021--");
        Ok(PAGE.replacen(PLACE, &data, 1))
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Part {
    Table(Table),
    Chart(Chart),
    Pictures { title: String, pictures: Vec<Picture> },
}

#[derive(Serialize)]
pub struct Table {
    pub title: String,
    /// The names of the columns; none where each row begins with a name.
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    pub note: String,
}

#[derive(Default, Serialize)]
pub struct Chart {
    pub title: String,
    /// What the axes are.
    pub x: String,
    pub y: String,
    pub log_x: bool,
    /// Whether the axis of y starts at 0.
    pub zero: bool,
    /// Whether the highest 2 % of the numbers may lie outside.
    pub cut: bool,
    /// Bars in place of a line.
    pub bars: bool,
    pub series: Vec<Series>,
}

/// Points of x, y and the standard error of y, 0 for none.
#[derive(Serialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<[f64; 3]>,
}

impl Series {
    pub fn new(name: &str, points: impl IntoIterator<Item = [f64; 3]>) -> Self {
        let finite = |point: &[f64; 3]| point.iter().all(|x| x.is_finite());
        Self { name: name.into(), points: points.into_iter().filter(finite).collect() }
    }
}

#[derive(Serialize)]
pub struct Picture {
    #[serde(serialize_with = "as_base64")]
    pub png: Vec<u8>,
    pub caption: String,
}

fn as_base64<S: Serializer>(png: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&BASE64_STANDARD.encode(png))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_data_ends_the_script() {
        let report = Report {
            title: "</script><b>".into(),
            about: "<!-- <script>".into(),
            parts: Vec::new(),
            config: String::new(),
        };
        let page = report.page().unwrap();
        assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
        assert!(!page.contains("<!--") && !page.contains(PLACE));
    }
}
