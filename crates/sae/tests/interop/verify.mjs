// Checks the published vectors with jose, and signs their claims with it.
//
// Usage: verify.mjs VECTORS_DIRECTORY JOSE_MODULE < invalid-signatures
// Prints one JSON line per envelope that it signed: {"name", "key", "compact"}.
// Reads compact forms whose signature is wrong from standard input, one a line.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [directory, modulePath] = process.argv.slice(2);
const jose = await import(pathToFileURL(modulePath));
const read = (name) => JSON.parse(readFileSync(join(directory, name), "utf8"));
const algorithms = ["ES256", "EdDSA"];

// Half of the order of P-256: ECDSA libraries return either S, the format allows the lower one.
const HALF_ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n >> 1n;

// RFC 8785 for what occurs in claims: strings, integers, booleans, ASCII member names.
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const members = Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${members.join(",")}}`;
}

// Signs until S is low, which takes two attempts on average.
async function sign(header, claims, key) {
  for (;;) {
    const payload = new TextEncoder().encode(canonical(claims));
    const compact = await new jose.CompactSign(payload).setProtectedHeader(header).sign(key);
    const [head, , signature] = compact.split(".");
    assert.equal(Buffer.from(head, "base64url").toString(), canonical(header), "the header's form");
    const s = BigInt(`0x${Buffer.from(signature, "base64url").subarray(32).toString("hex")}`);
    if (header.alg === "EdDSA" || s <= HALF_ORDER) return compact;
  }
}

const keysFile = read("keys.json");
const keys = { delegate: await importPair(keysFile.delegate, "EdDSA") };
for (const [name, identity] of Object.entries(keysFile.identities)) {
  keys[name] = await importPair(identity.jwk, "ES256");
  const der = Buffer.from(identity.certificate, "base64");
  assert.equal(createHash("sha256").update(der).digest("hex"), identity.kid, "kid is the leaf's SHA-256");
}

async function importPair(jwk, alg) {
  const { d, ...publicJwk } = jwk;
  return { sign: await jose.importJWK(jwk, alg), verify: await jose.importJWK(publicJwk, alg) };
}

const { vectors } = read("valid.json");
assert.ok(vectors.length >= 10, "the vectors are there");
for (const { name, key, compact, sae_hash, header, claims } of vectors) {
  const token = await jose.compactVerify(compact, keys[key].verify, { algorithms });
  assert.deepEqual(token.protectedHeader, header, name);
  const payload = new TextDecoder().decode(token.payload);
  assert.equal(payload, canonical(claims), name);
  assert.equal(createHash("sha256").update(compact, "ascii").digest("base64url"), sae_hash, name);
  const signed = await sign(header, claims, keys[key].sign);
  console.log(JSON.stringify({ name, key, compact: signed }));
}

const wrong = readFileSync(0, "utf8").split("\n").filter(Boolean);
assert.ok(wrong.length > 0, "wrong signatures were given");
for (const compact of wrong) {
  await assert.rejects(jose.compactVerify(compact, keys.agent.verify, { algorithms }), compact);
}
