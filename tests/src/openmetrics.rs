//! OpenMetrics text, read as strictly as the specification has it
//! (<https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>).

use std::collections::BTreeMap;

/// All metrics of one scrape, by the name of the family: that of a counter has no `_total`.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// The families.
    pub families: BTreeMap<String, Family>,
}

/// A metric and its time series.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// In the order of the text.
    pub samples: Vec<Sample>,
}

/// A line with a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// With `_total`, `_bucket` and the like.
    pub name: String,
    /// Names and values.
    pub labels: Labels,
    /// The number.
    pub value: f64,
}

/// Names and values of labels.
pub type Labels = BTreeMap<String, String>;

impl Exposition {
    /// Reads a text; says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let body = text
            .strip_suffix("# EOF\n")
            .ok_or("the text does not end with # EOF")?;
        let mut all = Self::default();
        let mut current = String::new();
        for line in body.lines() {
            all.line(line, &mut current)
                .map_err(|what| format!("{what}: {line:?}"))?;
        }
        for (name, family) in &all.families {
            family.check().map_err(|what| format!("{what}: {name}"))?;
        }
        Ok(all)
    }

    /// The numbers of all series that must not fall.
    pub fn counters(&self) -> BTreeMap<(String, Labels), f64> {
        let counting = |sample: &&Sample| {
            let ends = ["_total", "_bucket", "_count", "_sum"];
            ends.iter().any(|end| sample.name.ends_with(end))
        };
        let families = self.families.values();
        families
            .filter(|family| family.kind != "gauge")
            .flat_map(|family| family.samples.iter().filter(counting))
            .map(|sample| ((sample.name.clone(), sample.labels.clone()), sample.value))
            .collect()
    }

    fn line(&mut self, line: &str, current: &mut String) -> Result<(), String> {
        let Some(descriptor) = line.strip_prefix("# ") else {
            let sample = sample(line)?;
            let family = self.families.get_mut(current).ok_or("no family")?;
            if family.kind.is_empty() {
                return Err("a number before the type".into());
            }
            family.samples.push(sample);
            return Ok(());
        };
        let mut words = descriptor.splitn(3, ' ');
        let (what, name) = (words.next(), words.next().ok_or("no name")?);
        let rest = words.next().unwrap_or_default();
        match what {
            Some("HELP") => {
                *current = name.to_owned();
                let before = self.families.insert(current.clone(), Family::default());
                before.map_or(Ok(()), |_| Err("a family that was there already".into()))
            }
            Some("TYPE") if name == current => {
                let family = self.families.get_mut(name).ok_or("no help")?;
                rest.clone_into(&mut family.kind);
                let known = ["counter", "gauge", "histogram", "info"].contains(&rest);
                known.then_some(()).ok_or("an unknown type".into())
            }
            Some("UNIT") if name == current && name.ends_with(&format!("_{rest}")) => Ok(()),
            _ => Err("an odd line".into()),
        }
    }
}

impl Family {
    fn check(&self) -> Result<(), String> {
        let mut seen = Vec::new();
        for Sample {
            name,
            labels,
            value,
        } in &self.samples
        {
            if seen.contains(&(name, labels)) {
                return Err(format!("{name} {labels:?} is there twice"));
            }
            seen.push((name, labels));
            let is_counting = self.kind == "counter" || self.kind == "histogram";
            if value.is_nan() || (is_counting && *value < 0.0) {
                return Err(format!("{name} is {value}"));
            }
        }
        match &*self.kind {
            "histogram" => self.check_histogram(),
            _ => Ok(()),
        }
    }

    /// Of one without labels, as all of the router's are.
    fn check_histogram(&self) -> Result<(), String> {
        let samples = self.samples.iter();
        let (buckets, others): (Vec<_>, Vec<_>) =
            samples.partition(|sample| sample.name.ends_with("_bucket"));
        let mut last = (f64::NEG_INFINITY, 0.0);
        for bucket in buckets {
            let le = bucket.labels.get("le").ok_or("a bucket without a bound")?;
            let le = number(le)?;
            if le <= last.0 || bucket.value < last.1 {
                return Err(format!("the bucket of {le} is out of order"));
            }
            last = (le, bucket.value);
        }
        let count = others.iter().find(|it| it.name.ends_with("_count"));
        let count = count.ok_or("no count")?.value;
        if last != (f64::INFINITY, count) {
            return Err(format!("{count} in all, and the last bucket is {last:?}"));
        }
        Ok(())
    }
}

/// `name{label="value",…} 1.5`
fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no number")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            rest = rest.strip_prefix(',').unwrap_or(rest);
            let (label, behind) = rest.split_once("=\"").ok_or("a label without a value")?;
            let (value, behind) = unquote(behind)?;
            if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("the label {label:?}"));
            }
            rest = behind;
        }
        rest = &rest[1..];
    }
    let value = number(rest.strip_prefix(' ').ok_or("no number")?)?;
    if !is_name(name) {
        return Err(format!("the name {name:?}"));
    }
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// A value up to its closing quotation mark, and what comes behind that.
fn unquote(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, char @ ('"' | '\\'))) => value.push(char),
                other => return Err(format!("the escape {other:?}")),
            },
            char => value.push(char),
        }
    }
    Err("a value without an end".into())
}

fn is_name(text: &str) -> bool {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty()
        && text.chars().all(is_inside)
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        _ => text.parse().map_err(|_| format!("the number {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a Things.\n# TYPE a counter\na_total{x=\"1\",y=\"a \\\"b\\\", c\"} 3\n\
                        # HELP b_seconds Time.\n# TYPE b_seconds histogram\n# UNIT b_seconds seconds\n\
                        b_seconds_sum 1.5\nb_seconds_count 2\n\
                        b_seconds_bucket{le=\"0.5\"} 1\nb_seconds_bucket{le=\"+Inf\"} 2\n# EOF\n";

    #[test]
    fn good_text_is_read() {
        let read = Exposition::parse(GOOD).unwrap();
        let sample = &read.families["a"].samples[0];
        assert_eq!(sample.labels["y"], "a \"b\", c");
        assert_eq!(sample.value, 3.0);
        assert_eq!(read.counters().len(), 5);
    }

    #[test]
    fn bad_text_is_refused() {
        for (from, to) in [
            ("# EOF\n", ""),
            ("# EOF\n", "# EOF"),
            (" counter", " thing"),
            ("a_total{x=\"1\"", "a_total{x=\"1"),
            ("a_total{x", "a_total{y"),
            ("} 3", "} three"),
            ("} 3", "} -3"),
            ("b_seconds_count 2", "b_seconds_count 3"),
            ("{le=\"0.5\"} 1", "{le=\"0.5\"} 4"),
            ("# HELP b_seconds", "# HELP a"),
            ("UNIT b_seconds seconds", "UNIT b_seconds bytes"),
        ] {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD);
            assert!(Exposition::parse(&bad).is_err(), "{bad}");
        }
        let twice = GOOD.replace("b_seconds_sum", "b_seconds_sum 1.5\nb_seconds_sum");
        assert!(Exposition::parse(&twice).is_err());
    }
}
