//! Secrets: from files, whole, and in no text that we write.

use crate::config::tests::{Directory, described, password, refused, text};
use crate::config::{Environment, load};

#[test]
fn secrets_may_stand_in_files() {
    let directory = Directory::new();
    for (name, content, expected) in [
        ("plain", &b"p w"[..], Some("p w")),
        ("newline", b"pw\n", Some("pw")),
        ("crlf", b"pw\r\n", Some("pw")),
        ("two", b"pw\n\n", Some("pw\\n")),
        ("cr", b"pw\r", Some("pw\\r")),
        ("bytes", b"\xff\xfe", Some("\\xff\\xfe")),
        ("nul", b"p\0w", None),
        ("empty", b"", None),
        ("only", b"\n", None),
    ] {
        let path = directory.file(name, content);
        let variables = [("DATABASE_PASSWORD_FILE", text(&path))];
        match expected {
            Some(expected) => assert_eq!(password(&variables).as_deref(), Some(expected), "{name}"),
            None if name == "nul" => {
                assert_eq!(
                    refused(&variables),
                    ["DATABASE_PASSWORD_FILE: holds a NUL, which PostgreSQL cannot take"]
                )
            }
            None => assert_eq!(
                refused(&variables),
                [format!("DATABASE_PASSWORD_FILE: {} is empty", path.display())]
            ),
        }
    }
    let url = directory.file("url", b"postgres://u:p@h/d\n");
    assert_eq!(described(&[("DATABASE_URL_FILE", text(&url))]), "u@h:5432/d");
    assert_eq!(
        refused(&[
            ("DATABASE_URL_FILE", text(&url)),
            ("DATABASE_URL", "host=h"),
            ("DATABASE_PASSWORD_FILE", text(&url)),
            ("DATABASE_PASSWORD", "x"),
        ]),
        [
            "DATABASE_URL_FILE: is set, and so is DATABASE_URL: set one of them",
            "DATABASE_PASSWORD_FILE: is set, and so is DATABASE_PASSWORD: set one of them"
        ]
    );
    let bytes = directory.file("bytes", b"postgres://u:\xff@h/d");
    assert_eq!(
        refused(&[("DATABASE_URL_FILE", text(&bytes))]),
        ["DATABASE_URL_FILE: is not valid UTF-8"]
    );
}

#[test]
fn no_text_ever_shows_a_part_of_a_password() {
    let directory = Directory::new();
    let mut separators: Vec<String> =
        (1..=0x7f_u8).map(|byte| char::from(byte).to_string()).collect();
    separators.extend(
        [
            "%zz",
            "%4",
            "%41",
            "%00",
            "%ff",
            "@@",
            "@/",
            "/@",
            "@1/",
            "/1?",
            "?a=b&",
            "&a=b",
            "&a=",
            "=&",
            " = ",
            "= ",
            " =",
            " a=b ",
            "a b=",
            "' ",
            "'='",
            "\\' ",
            "\\",
            "\\\\",
            "://",
            "@[",
            "]:",
            "@[::1]:",
            ":1,",
            ",",
            "@h:1/d?x=",
            "1/",
            "é",
            "ไ",
            "postgres://",
            "\r\n",
            "::",
            "@:1/?",
            "/?",
            "?/",
            "#@",
            "@#",
            "?#",
            "%40",
            "&ssl=",
            "?ssl=",
            "' x='",
            "\\'",
            "*:*",
        ]
        .map(str::to_owned),
    );
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let (mut taken, mut refused) = (0, 0);
    for separator in &separators {
        for password in [
            format!("qzx{separator}qzx"),
            format!("{separator}qzx{separator}qzx{separator}"),
            format!("1{separator}qzx{separator}1"),
        ] {
            let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
            let file = directory.file("password", password.as_bytes());
            let pgpass = directory.file("pgpass", format!("*:*:*:*:{escaped}").as_bytes());
            let url_file = directory.file("url", format!("postgres://u:{password}@h/d").as_bytes());
            let whole: [(&str, String); 6] = [
                ("DATABASE_PASSWORD", password.clone()),
                ("PGPASSWORD", password.clone()),
                ("DATABASE_PASSWORD_FILE", text(&file).to_owned()),
                ("PGPASSFILE", text(&pgpass).to_owned()),
                ("DATABASE_URL", format!("postgres://u:{}@h/d", encoded(&password))),
                ("DATABASE_URL", format!("user=u password={} host=h", quoted(&password))),
            ];
            // Without an `@` what stands here is a host and its port, and only what cannot be a port can be noticed.
            let hostless = if password.starts_with("qzx") {
                password.replace('@', "")
            } else {
                "qzx".to_owned()
            };
            let raw: [(&str, String); 13] = [
                ("DATABASE_URL", format!("postgres://u:{password}@h:1/d?application_name=a")),
                ("DATABASE_URL", format!("postgres://u:{password}@/d?hots=h")),
                ("DATABASE_URL", format!("postgres://u:{password}@h")),
                ("DATABASE_URL", format!("postgres://:{password}@h")),
                ("DATABASE_URL", format!("postgres://u:{hostless}")),
                ("DATABASE_URL", format!("postgres://h/d?password={password}")),
                ("DATABASE_URL", format!("postgres://h/d?password={password}&sslmode=require")),
                ("DATABASE_URL", format!("mysql://u:{password}@h")),
                ("DATABASE_URL", format!("password={password}")),
                ("DATABASE_URL", format!("host=h password={password} user=u")),
                ("DATABASE_URL", format!("host=h password='{password}' user=u")),
                ("DATABASE_URL_FILE", text(&url_file).to_owned()),
                ("DATABASE_ENDPOINT_URL", format!("u:{password}@h:5432")),
            ];
            for (index, (variable, value)) in whole.iter().chain(&raw).enumerate() {
                let trailing = variable.ends_with("FILE") && password.contains(['\r', '\n']);
                // A second wrong variable, so that the complaints' path is walked too.
                for more in [("LOG_LEVEL", "INFO"), ("LOG_LEVEL", "LOUD"), ("PGSSLMODE", "require")]
                {
                    let environment = Environment::of(&[(*variable, value.as_str()), more]);
                    let texts = match load(&environment) {
                        Ok(config) => {
                            let got = config.server.places[0].password.clone();
                            let got = got.unwrap_or_default();
                            if index < whole.len() && !trailing {
                                assert_eq!(got, password.as_bytes(), "{variable}={value}");
                            }
                            taken += 1;
                            config.server.description
                        }
                        Err(complaints) => {
                            assert!(
                                index >= whole.len() || more.1 != "INFO",
                                "{variable}={value:?}: {complaints:?}"
                            );
                            refused += 1;
                            complaints
                                .iter()
                                .map(|complaint| format!("{complaint} {complaint:?}"))
                                .collect()
                        }
                    };
                    assert!(!texts.contains("qzx"), "{variable}={value:?} shows {texts}");
                }
            }
        }
    }
    assert!(taken > 5000 && refused > 5000, "{taken} taken, {refused} refused");
}
