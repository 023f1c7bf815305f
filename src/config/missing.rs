//! No variable says where the database is: what is said of it, and which variables may have been meant to.
//!
//! libpq's default then is a server on this machine and a database called like the user. Nobody has asked for that: where
//! no server answers, every retry is in vain, and where one does, it is some other one.

use super::{Environment, variables};
use crate::text::words::joined;

/// So many variables are named.
const NAMED: usize = 5;

/// What is wrong, if none of the variables is set that say where the database is.
pub fn address(environment: &Environment) -> Option<String> {
    let (url, endpoint) = (variables::URL.name, variables::ENDPOINT.variable.name);
    let all = [url, variables::URL_FILE.name, endpoint, "PGHOST", "PGHOSTADDR", "PGSERVICE"];
    if all.iter().any(|it| environment.named(it).is_some()) {
        return None;
    }
    let mut text = format!(
        "nothing says where the database is: neither this variable nor {endpoint} nor PGHOST"
    );
    let variables = &environment.variables;
    let empty = all.iter().filter(|it| variables.contains_key(**it));
    let empty = empty.map(|name| format!("{name} (which is empty)"));
    let is_known = |name: &String| variables::all().any(|it| it.name == name);
    let others = variables.keys().filter(|it| !is_known(it) && is_near(it));
    let near = joined(empty.chain(others.cloned()).take(NAMED), ", ");
    if !near.is_empty() {
        text += &format!("; these are set, and not read: {near}");
    }
    Some(text)
}

/// Returns true if and only if the name may be meant to say where a database is: one of ours with a slip of the pen, or what
/// other programs call it.
fn is_near(name: &str) -> bool {
    const WHOSE: &str = "POSTGRES|POSTGRESQL|PG|DB|DATABASE|MIGRATIONS";
    const WHAT: &str = "URL|URI|DSN|HOST|HOSTNAME|ADDR|ADDRESS|SERVER|PORT|ENDPOINT|NAME|DB|DATABASE|USER|USERNAME|PASSWORD";
    let upper = name.to_uppercase();
    let others = WHOSE.split('|').any(|whose| {
        let rest = upper.strip_prefix(whose).unwrap_or_default();
        WHAT.split('|').any(|it| it == rest.trim_start_matches('_'))
    });
    let own = [&variables::URL, &variables::ENDPOINT.variable];
    others || own.iter().any(|it| is_slip(&upper, it.name))
}

/// Returns true if and only if one letter more, less or other, or two that changed places, make one name of the other.
fn is_slip(name: &str, meant: &str) -> bool {
    let (a, b) = (name.as_bytes(), meant.as_bytes());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    match (a, b) {
        ([], [_]) | ([_], []) => true,
        ([a1, a2, a @ ..], [b1, b2, b @ ..]) if a1 == b2 && a2 == b1 && a == b => true,
        ([_, rest_a @ ..], [_, rest_b @ ..]) => rest_a == rest_b || rest_a == b || a == rest_b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_named_and_its_value_is_not() {
        let said = |variables: &[(&str, &str)]| address(&Environment::of(variables));
        assert_eq!(said(&[("DATABASE_URL", "x")]), None);
        assert_eq!(said(&[("PGSERVICE", "x")]), None);
        let bare = said(&[("DATABASE_NAME", "a"), ("LOG_LEVEL", "INFO"), ("PATH", "/")]);
        let bare = bare.expect("nothing says where it is");
        assert!(!bare.contains("are set"), "{bare}");
        for name in [
            "DATABSE_URL",
            "DATABASE_ULR",
            "DATABASE_URLS",
            "DATABASE_UR",
            "DATABASE_IRL",
            "database_url",
            "POSTGRES_USER",
            "DB_HOST",
            "PGURL",
            "DATABASE_HOST",
            "DATABASE_ENDPOINT_URI",
        ] {
            let text = said(&[(name, "secret")]).unwrap_or_default();
            assert_eq!(text, format!("{bare}; these are set, and not read: {name}"));
        }
        let text = said(&[("DATABASE_URL", "")]).unwrap_or_default();
        assert_eq!(
            text,
            format!("{bare}; these are set, and not read: DATABASE_URL (which is empty)")
        );
    }
}
