//! libpq's password file: `host:port:database:user:password` a line (PostgreSQL manual, "The Password File").

use std::io;
use std::iter;
use std::path::Path;

use super::places::Place;
use super::tls::{Private, read_private};

/// Returns the file's text; none if it does not exist or may not be used, which the warning then tells.
pub(super) fn read(path: &Path, warnings: &mut Vec<String>) -> Option<Vec<u8>> {
    let read = read_private(path, Private::Passwords);
    if let Err(why) = &read
        && why.kind() != io::ErrorKind::NotFound
    {
        let path = path.display();
        warnings.push(format!("the password file {path} is ignored: {why}"));
    }
    read.ok()
}

/// Returns the password of the first line that matches. A local connection has two names: its socket's directory and
/// `localhost`.
pub(super) fn find(file: &[u8], place: &Place, database: &str, user: &str) -> Option<Vec<u8>> {
    let lines = file.split(|byte| *byte == b'\n');
    lines.map(|it| it.strip_suffix(b"\r").unwrap_or(it)).find_map(|line| {
        let mut rest = line;
        let fields: Vec<Field> = iter::from_fn(|| take_field(&mut rest)).take(5).collect();
        let [host, port, of_database, of_user, (password, _)] = fields.as_slice() else {
            return None;
        };
        let is = |(text, is_any): &Field, name: &str| *is_any || text == name.as_bytes();
        let is_meant = (is(host, &place.name) || place.is_socket() && is(host, "localhost"))
            && is(port, &place.port.to_string())
            && is(of_database, database)
            && is(of_user, user);
        let is_one = is_meant && !line.starts_with(b"#") && !password.is_empty();
        is_one.then(|| password.clone())
    })
}

/// A field's text, unescaped; and whether it is an asterisk alone, without a backslash.
type Field = (Vec<u8>, bool);

/// Takes the field off the line that ends at the next colon without a backslash before it.
fn take_field(line: &mut &[u8]) -> Option<Field> {
    if line.is_empty() {
        return None;
    }
    let mut text = Vec::new();
    let mut rest = line.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b':' => break,
            b'\\' => text.push(*rest.next().unwrap_or(&b'\\')),
            byte => text.push(byte),
        }
    }
    let is_any = line.starts_with(b"*") && text == b"*";
    *line = rest.as_slice();
    Some((text, is_any))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, port: u16) -> Place {
        Place { name: name.to_owned(), address: None, port, password: None }
    }

    #[test]
    fn takes_the_first_line_that_matches() {
        let place = place("db.example", 5432);
        let table: [(&str, Option<&str>); 24] = [
            ("db.example:5432:app:me:secret", Some("secret")),
            ("db.example:5432:app:me:secret\r\n", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            ("*:5432:*:me:secret\n", Some("secret")),
            ("other:5432:app:me:no\n*:*:*:*:yes\n*:*:*:*:late", Some("yes")),
            ("db.example:5433:app:me:no", None),
            ("db.example:5432:apps:me:no", None),
            ("db.example:5432:app:you:no", None),
            ("DB.example:5432:app:me:no", None),
            ("db.ex*:5432:app:me:no", None),
            ("\\*:5432:app:me:no", None),
            ("**:5432:app:me:no", None),
            ("#*:*:*:*:no", None),
            (" *:*:*:*:no", None),
            ("*:*:*:*:", None),
            ("*:*:*:*", None),
            ("*:*:*", None),
            ("", None),
            ("\n\n*:*:*:*:a\\:b\\\\c", Some("a:b\\c")),
            ("*:*:*:*:a:b", Some("a")),
            ("*:*:*:*:end\\", Some("end\\")),
            ("*:*:*:*: spaces ", Some(" spaces ")),
            ("*:*:*:*:pässwörd", Some("pässwörd")),
            ("db\\.example:5432:a\\pp:me:secret", Some("secret")),
        ];
        for (file, password) in table {
            assert_eq!(
                find(file.as_bytes(), &place, "app", "me").as_deref(),
                password.map(str::as_bytes),
                "{file:?}"
            );
        }
    }

    #[test]
    fn a_colon_or_a_backslash_in_a_name_is_escaped() {
        let found = |file: &[u8]| find(file, &place("::1", 1), "a\\b", "u:v");
        assert_eq!(found(b"\\:\\:1:1:a\\\\b:u\\:v:secret").as_deref(), Some(&b"secret"[..]));
        assert_eq!(found(b"::1:1:a\\b:u:v:secret"), None);
    }

    #[test]
    fn a_local_connection_has_two_names() {
        let found = |file: &[u8]| find(file, &place("/run/postgresql", 5432), "d", "u");
        let socket_last = b"localhost:5432:d:u:one\n/run/postgresql:5432:d:u:two";
        assert_eq!(found(socket_last).as_deref(), Some(&b"one"[..]));
        let socket_first = b"/run/postgresql:5432:d:u:two\nlocalhost:5432:d:u:one";
        assert_eq!(found(socket_first).as_deref(), Some(&b"two"[..]));
        assert_eq!(found(b"/tmp:5432:d:u:no"), None);
    }
}
