//! What shells and `man` read: completions and the manual page, made of the table of commands and of the variables, so
//! that they name what the parser takes and nothing else.

use super::help::{MANUAL, general, page};
use super::{COMMANDS, Entry};
use crate::config::variables;

/// The name of who reads, and what it gets.
type Reader = (&'static str, fn() -> String);

/// All that `lockstep help` has for programs.
pub static READERS: [Reader; 4] = [("bash", bash), ("zsh", zsh), ("fish", fish), ("man", man)];

/// What may follow the command, but for what only its user knows.
fn words(entry: &Entry) -> String {
    let options = entry.options.iter().chain(&["help"]);
    let mut words: Vec<String> = options.map(|option| format!("--{option}")).collect();
    match entry.operand {
        "[TOPIC]" => {
            let topics = MANUAL.iter().map(|(topic, _)| *topic);
            words.extend(COMMANDS.iter().map(|entry| entry.name).chain(topics).map(str::to_owned));
        }
        "VERSION" => words.push("latest".to_owned()),
        _ => (),
    }
    words.join(" ")
}

/// A directory follows where one is asked for; bash takes one anywhere.
fn bash() -> String {
    let names: String = COMMANDS.iter().map(|it| format!("{} ", it.name)).collect();
    let case = |it: &Entry| format!("        *:{}) words='{}' ;;\n", it.name, words(it));
    let cases: String = COMMANDS.iter().map(case).collect();
    format!(
        "_lockstep() {{
    local words=
    case $COMP_CWORD:${{COMP_WORDS[1]}} in
        1:*) words='{names}--help --version' ;;
{cases}    esac
    COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))
}}
complete -o default -F _lockstep lockstep
"
    )
}

fn zsh() -> String {
    let name = |it: &Entry| format!("    '{}:{}'\n", it.name, quoted(it.summary));
    let names: String = COMMANDS.iter().map(name).collect();
    let case = |it: &Entry| match it.operand {
        "DIRECTORY" => format!("    {}) _files -/ ;;\n", it.name),
        _ => format!("    {}) compadd -- {} ;;\n", it.name, words(it)),
    };
    let cases: String = COMMANDS.iter().map(case).collect();
    format!(
        "#compdef lockstep
local -a commands=(
{names})
if (( CURRENT == 2 )); then
    _describe command commands
else
    case $words[2] in
{cases}    esac
fi
"
    )
}

fn fish() -> String {
    let mut script = "complete -c lockstep -f\n".to_owned();
    for entry in COMMANDS {
        let (name, what) = (entry.name, quoted(entry.summary));
        script += &format!("complete -c lockstep -n __fish_use_subcommand -a {name} -d '{what}'\n");
        let words = match entry.operand {
            "DIRECTORY" => "(__fish_complete_directories)".to_owned(),
            _ => words(entry),
        };
        script +=
            &format!("complete -c lockstep -n '__fish_seen_subcommand_from {name}' -a '{words}'\n");
    }
    script
}

/// Text that may stand between a shell's single quotes.
fn quoted(text: &str) -> String {
    text.replace('\'', r"'\''")
}

/// The pages as they stand, and every variable.
fn man() -> String {
    let mut text = format!(
        ".TH LOCKSTEP 1 \"\" \"lockstep {}\"\n.SH NAME\nlockstep \\- applies PostgreSQL schema migrations\n\
         .SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    );
    text += &verbatim(&general());
    for entry in COMMANDS {
        text += &format!(".SH LOCKSTEP {}\n", entry.name.to_uppercase());
        text += &verbatim(&page(entry));
    }
    text += ".SH ENVIRONMENT\n";
    for variable in variables::all() {
        let meaning = escaped(&variable.meaning.replace('`', ""));
        text += &format!(".TP\n.B {}\n{meaning}\n", variable.name);
    }
    text
}

/// Text in which neither a line's nor a character's place changes.
fn verbatim(page: &str) -> String {
    let lines: String = page.lines().map(|line| escaped(line) + "\n").collect();
    format!(".nf\n{lines}.fi\n")
}

/// Text in which roff sees no request, no escape and no hyphen that it may draw otherwise.
fn escaped(line: &str) -> String {
    format!("\\&{}", line.replace('\\', "\\e").replace('-', "\\-"))
}
