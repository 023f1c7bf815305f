//! libpq's service files: named sets of parameters (PostgreSQL manual, "The Connection Service File").

use std::fs;
use std::io;
use std::path::Path;

use super::conninfo::Parameters;
use super::{Environment, variables};

/// What the first of the files that has such a section says in it.
///
/// # Errors
///
/// There is none, or its file is not of that form. Nothing of a file is repeated: there may be passwords in it.
pub(super) fn find(
    environment: &Environment,
    service: &[u8],
    file: Option<Vec<u8>>,
) -> Result<Parameters, String> {
    let mut looked = Vec::new();
    let is_named = file.is_some();
    let own = environment.file(file, ".pg_service.conf");
    let directory = environment.get(&variables::SERVICE_DIRECTORY);
    let directory = directory.unwrap_or(variables::SERVICE_DIRECTORY.default.as_ref());
    let system = Path::new(directory).join("pg_service.conf");
    for (path, must_exist) in own.map(|own| (own, is_named)).into_iter().chain([(system, false)]) {
        let shown = path.display().to_string();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => Vec::new(),
            Err(error) => return Err(format!("cannot read the service file {shown}: {error}")),
        };
        let found = section(&text, service);
        match found.map_err(|(line, problem)| format!("{shown}:{line}: {problem}"))? {
            Some(parameters) => return Ok(parameters),
            None => looked.push(shown),
        }
    }
    let service = String::from_utf8_lossy(service);
    let looked = looked.join(" or in ");
    Err(format!("there is no service {service:?} in {looked}"))
}

/// The first section of this name, or which line is wrong, from 1.
fn section(text: &[u8], name: &[u8]) -> Result<Option<Parameters>, (usize, &'static str)> {
    let mut found = None;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if let Some(title) = line.strip_prefix(b"[") {
            if found.is_some() {
                break;
            }
            if title.strip_suffix(b"]") == Some(name) {
                found = Some(Parameters::new("a line has one parameter"));
            }
            continue;
        }
        let Some(found) = &mut found else {
            continue;
        };
        let wrong = |problem| Err((index + 1, problem));
        if line.starts_with(b"ldap") {
            return wrong("a look-up by LDAP is not supported");
        }
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else {
            return wrong("there is no \"=\"");
        };
        let (key, value) = (&line[..equals], &line[equals + 1..]);
        if key == b"service" || key == b"servicefile" {
            return wrong("a service cannot refer to another one");
        }
        found.add(key, value.to_vec());
        found.after_secret = false;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"# ours\n[a]\nhost=one\n\n  port=1  \nhost=two\npassword=p=w [x]\n[b]\n[a]\nuser=u\n[c]\nhost\n[d]\nldap://x\n[e]\nservice=a\n[f]\nhots=x\n";

    fn listed(name: &str) -> Result<Option<String>, (usize, &'static str)> {
        let found = section(FILE, name.as_bytes())?;
        Ok(found.map(|it| {
            let given = it.parameters.iter();
            let given = given.map(|(key, value)| format!("{key}={}", value.escape_ascii()));
            given.chain(it.problems.clone()).collect::<Vec<_>>().join(" ")
        }))
    }

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let a = "host=one port=1 host=two password=p=w [x]";
        assert_eq!(listed("a"), Ok(Some(a.to_owned())));
        assert_eq!(listed("b"), Ok(Some(String::new())));
        assert_eq!(listed("z"), Ok(None));
        assert_eq!(listed("f"), Ok(Some("unknown parameter \"hots\"".to_owned())));
    }

    #[test]
    fn a_line_that_is_wrong_is_told() {
        for (name, line) in [("c", 12), ("d", 14), ("e", 16)] {
            assert_eq!(listed(name).map_err(|(line, _)| line), Err(line), "{name}");
        }
    }
}
