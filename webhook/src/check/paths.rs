//! Paths, compared by their parts.

/// The path's parts; /var/run is /run on every Linux system.
pub(super) fn parts(path: &str) -> Vec<&str> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    match parts.as_slice() {
        ["var", "run", rest @ ..] => std::iter::once("run").chain(rest.iter().copied()).collect(),
        _ => parts,
    }
}

/// Whether `path` is `place`, or inside of it.
pub(super) fn within(path: &str, place: &str) -> bool {
    parts(path).starts_with(&parts(place))
}
