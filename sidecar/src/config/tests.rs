use super::*;

const MINIMAL: &str = "
identity: {workloadApi: /run/spire/agent.sock}
agent: {salt: 000102030405060708090a0b0c0d0e0f, policySalt: 0f0e0d0c0b0a09080706050403020100, model: '0000000000000000000000000000000000000000000000000000000000000001'}
chain:
  chainId: 84532
  endpoints: ['http://127.0.0.1:8545']
  agentRegistry: '0x0000000000000000000000000000000000000001'
  policyRegistry: '0x0000000000000000000000000000000000000002'
  anchor: '0x0000000000000000000000000000000000000003'
catalog: /etc/writ/catalog.yaml
record: {directory: /var/lib/writ}
";

fn load(text: &str) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::load(file.path())
}

#[test]
fn a_minimal_configuration_has_the_documented_defaults() {
    let config = load(MINIMAL).unwrap();
    assert_eq!(config.listen.outbound, 15801);
    assert_eq!(config.chain.staleness.fresh, Duration::from_secs(60));
    assert_eq!(config.outbound.body_limit, 1 << 20);
}

#[test]
fn an_unknown_field_is_refused_whole() {
    let error = load(&format!("{MINIMAL}\nsurprise: 1\n")).unwrap_err();
    assert!(error.to_string().contains("surprise"), "{error}");
}

#[test]
fn a_duplicate_key_is_refused() {
    assert!(load(&format!("{MINIMAL}\ncatalog: /other\n")).is_err());
}

#[test]
fn contradictions_are_refused_with_the_setting_named() {
    for (from, to, names) in [
        (
            "  endpoints: ['http://127.0.0.1:8545']",
            "  endpoints: []",
            "endpoints",
        ),
        (
            "  chainId: 84532",
            "  chainId: 84532\n  quorum: 2",
            "quorum",
        ),
        ("catalog: /etc/writ/catalog.yaml", "", "catalog"),
        (
            "record:",
            "inbound: [{port: 15801, app: '127.0.0.1:80', authorities: ['a:80']}]\nrecord:",
            "15801",
        ),
        (
            "record:",
            "inbound: [{port: 80, app: '127.0.0.1:80', authorities: []}]\nrecord:",
            "authorities",
        ),
        (
            "record:",
            "inbound: [{port: 80, app: '127.0.0.1:80', authorities: ['a:80'], bodyTimeout: 0s}]\nrecord:",
            "bodyTimeout",
        ),
        (
            "record:",
            "outbound: {envelopeSeconds: 10}\nrecord:",
            "envelopeSeconds",
        ),
    ] {
        let error = load(&MINIMAL.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(names), "{names}: {error}");
    }
}

#[test]
fn the_published_schema_is_current() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/schemas/sidecar.schema.json"
    );
    let current = serde_json::to_string_pretty(&Config::json_schema()).unwrap() + "\n";
    let published = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        published, current,
        "run `writ-sidecar schema > docs/schemas/sidecar.schema.json`"
    );
}
