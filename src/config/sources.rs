//! Who says what about the connection: the connection string, the parts, libpq's variables. Each parameter is taken from
//! the first of these that names it. A host goes with its address and its port: a source whose host is not taken does
//! not give a port to another's host, except `PGPORT`, as with libpq.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::conninfo::Parameters;
use super::parameters::PARAMETERS;
use super::variables::{self, Variable};
use super::{Inquiry, conninfo, foreign, service};

/// A value, and where it stands.
pub(super) struct Given {
    pub variable: &'static Variable,
    /// It is one of a connection string's parameters, and may be a piece of a secret: complaints do not repeat it.
    pub in_string: bool,
    pub value: Vec<u8>,
}

/// What one source says: parameter → value. Nothing in it is empty.
pub(super) type Layer = BTreeMap<&'static str, Given>;

impl Inquiry<'_> {
    /// What is given of each parameter; none if that cannot be told, after a complaint.
    pub(super) fn given_parameters(&mut self) -> Option<Layer> {
        let url = self.url_layer();
        let mut parts = self.parts_layer();
        // Without the connection string nobody can say which of libpq's variables matter.
        let url = url?;
        let mut given = self.pg_layer();
        let mut service = self.service_layer(&url, &given)?;
        let names_host = |it: &Layer| it.contains_key("host") || it.contains_key("hostaddr");
        if names_host(&url) {
            parts.retain(|key, _| !["host", "port"].contains(key));
        }
        if names_host(&url) || names_host(&parts) {
            service.retain(|key, _| !["host", "hostaddr", "port"].contains(key));
        }
        if [&url, &parts, &service].into_iter().any(names_host) {
            given.retain(|key, _| !["host", "hostaddr"].contains(key));
        }
        // The later ones give way to the earlier ones.
        for layer in [service, parts, url] {
            given.extend(layer);
        }
        // The switch means the system's certificates, unless others are named.
        let switch = &variables::SSL.variable;
        let is_on = |it: &Given| it.variable.name == switch.name && it.value == b"verify-full";
        if given.get("sslmode").is_some_and(is_on) {
            given.entry("sslrootcert").or_insert(Given::whole(switch, b"system"));
        }
        Some(given)
    }

    /// What the service file says of the service that is asked for, if one is; none after a complaint.
    fn service_layer(&mut self, url: &Layer, pg: &Layer) -> Option<Layer> {
        let asked = |key| url.get(key).or_else(|| pg.get(key));
        let Some(service) = asked("service") else {
            return Some(Layer::new());
        };
        let variable = service.variable;
        let file = asked("servicefile").map(|it| it.value.clone());
        let mut found = service::find(self.environment, &service.value, file);
        // Of two lines about one parameter, libpq takes the first.
        found.iter_mut().for_each(|it| it.parameters.reverse());
        self.text_layer(variable, found)
    }

    /// What a text says, after complaints of single parameters; of several with one name the last counts. None after a
    /// complaint of the whole.
    fn text_layer(
        &mut self,
        variable: &'static Variable,
        found: Result<Parameters, String>,
    ) -> Option<Layer> {
        let found = found.map_err(|problem| self.complain(variable, problem)).ok()?;
        for problem in found.problems {
            self.complain(variable, problem);
        }
        let in_string = |value| Given { variable, in_string: true, value };
        let given = found.parameters.into_iter();
        let mut layer: Layer = given.map(|(key, value)| (key, in_string(value))).collect();
        layer.retain(|_, it| !it.value.is_empty());
        Some(layer)
    }

    /// The connection string's parameters; none at all if it is unusable.
    fn url_layer(&mut self) -> Option<Layer> {
        let given = self.value_or_file(&variables::URL, &variables::URL_FILE)?;
        let Some((variable, mut text)) = given else {
            return Some(Layer::new());
        };
        drop_line_break(&mut text);
        let text = String::from_utf8(text).map_err(|_| "is not valid UTF-8".to_owned());
        let parsed = text.and_then(|text| {
            let parsed = conninfo::parse(&text)?;
            if let Some(warning) = foreign::unexpanded(&text) {
                self.warnings.push(format!("{}: {warning}", variable.name));
            }
            Ok(parsed)
        });
        self.text_layer(variable, parsed)
    }

    fn parts_layer(&mut self) -> Layer {
        let mut layer = Layer::new();
        let mut add =
            |key, variable, value: &[u8]| layer.insert(key, Given::whole(variable, value));
        if let Some((host, port)) = self.given(&variables::ENDPOINT) {
            let variable = &variables::ENDPOINT.variable;
            add("host", variable, host.as_bytes());
            port.map(|port| add("port", variable, port.to_string().as_bytes()));
        }
        for (key, setting) in [("dbname", &variables::DATABASE), ("user", &variables::USERNAME)] {
            if let Some(text) = self.given(setting) {
                add(key, &setting.variable, text.as_bytes());
            }
        }
        let password = self.value_or_file(&variables::PASSWORD, &variables::PASSWORD_FILE);
        if let Some(Some((variable, password))) = password {
            if password.contains(&0) {
                self.complain(variable, "holds a NUL, which PostgreSQL cannot take");
            }
            add("password", variable, &password);
        }
        if let Some(enabled) = self.given(&variables::SSL) {
            let mode = if enabled { "verify-full" } else { "disable" };
            add("sslmode", &variables::SSL.variable, mode.as_bytes());
        }
        layer
    }

    fn pg_layer(&self) -> Layer {
        let given = PARAMETERS.iter().filter_map(|parameter| {
            let variable = parameter.variable.as_ref()?;
            let value = self.environment.get(variable)?.as_encoded_bytes();
            Some((parameter.key, Given::whole(variable, value)))
        });
        let mut layer: Layer = given.collect();
        // The older spelling of a mode, which counts where there is no newer one.
        let older = layer.remove("requiressl");
        if let Some(older) = older.filter(|it| it.value.starts_with(b"1")) {
            let value = b"require".to_vec();
            layer.entry("sslmode").or_insert(Given { value, ..older });
        }
        layer
    }

    /// The value of the one that is set of a variable and its `_FILE` variant; none after a complaint.
    fn value_or_file(
        &mut self,
        variable: &'static Variable,
        file: &'static Variable,
    ) -> Option<Option<(&'static Variable, Vec<u8>)>> {
        let (value, name) = (self.environment.get(variable), variable.name);
        let Some(path) = self.environment.get(file) else {
            return Some(value.map(|it| (variable, it.as_encoded_bytes().to_vec())));
        };
        let text = match value {
            Some(_) => Err(format!("is set, and so is {name}: set one of them")),
            None => secret_file(Path::new(path)),
        };
        let text = text.map_err(|problem| self.complain(file, problem)).ok()?;
        Some(Some((file, text)))
    }
}

impl Given {
    /// The value that a variable of its own has.
    fn whole(variable: &'static Variable, value: &[u8]) -> Given {
        Given { variable, in_string: false, value: value.to_vec() }
    }
}

/// A secret that was made by `echo` ends in one.
fn drop_line_break(text: &mut Vec<u8>) {
    if text.pop_if(|byte| *byte == b'\n').is_some() {
        text.pop_if(|byte| *byte == b'\r');
    }
}

/// Reads a file whose whole text, without one line break at its end, is a value.
fn secret_file(path: &Path) -> Result<Vec<u8>, String> {
    /// Far more than any connection string or password; a wrong path, such as a device, must not fill the memory.
    const LARGEST: u64 = 64 * 1024;
    let shown = path.display();
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut text))
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if text.len() as u64 > LARGEST {
        return Err(format!("{shown} is larger than {LARGEST} bytes"));
    }
    drop_line_break(&mut text);
    if text.is_empty() { Err(format!("{shown} is empty")) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
