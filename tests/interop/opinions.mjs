// What npm's @sigstore/verify says of cases: proofs of inclusion, signed checkpoints, RFC 3161 time stamps.
//
//     node opinions.mjs CASES FOLDER      where FOLDER/node_modules is
import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.argv[3], "node_modules", "here.js"));
const { verifyCheckpoint } = require("@sigstore/verify/dist/tlog/checkpoint.js");
const { verifyMerkleInclusion } = require("@sigstore/verify/dist/tlog/merkle.js");
const { verifyRFC3161Timestamp } = require("@sigstore/verify/dist/timestamp/tsa.js");
const { RFC3161Timestamp, X509Certificate } = require("@sigstore/core");

const given = JSON.parse(readFileSync(process.argv[2], "utf8"));
const bytes = (text) => Buffer.from(text, "base64");
const holds = (check) => {
  try {
    check();
    return true;
  } catch (error) {
    return false;
  }
};

const inclusion = given.inclusion.map((each) =>
  holds(() =>
    verifyMerkleInclusion(
      {
        canonicalizedBody: bytes(each.leaf),
        inclusionProof: { logIndex: String(each.index), hashes: each.path.map(bytes) },
      },
      { logSize: BigInt(each.size), logHash: bytes(each.root) },
    ),
  ),
);

// Of kind 1, Ed25519 of notes: cosignatures are of another kind, and passed over.
const logs = (keys) =>
  keys
    .map((text) => [text.split("+", 2), bytes(text.split("+").slice(2).join("+"))])
    .filter(([, key]) => key[0] === 1)
    .map(([[name, id], key]) => ({
      logID: Buffer.from(id, "hex"),
      baseURL: name,
      publicKey: createPublicKey({
        key: Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), key.subarray(1)]),
        format: "der",
        type: "spki",
      }),
    }));
const notes = given.notes.map((each) =>
  holds(() => verifyCheckpoint({ inclusionProof: { checkpoint: { envelope: each.note } } }, logs(each.keys))),
);

const [root, signer] = given.authorities.map((pem) => X509Certificate.parse(pem));
const authority = { certChain: [signer, root], validFor: { start: new Date(0), end: new Date(8.64e15) } };
const stamps = given.stamps.map((each) =>
  holds(() => verifyRFC3161Timestamp(RFC3161Timestamp.parse(bytes(each.stamp)), Buffer.from(each.note), [authority])),
);

console.log(JSON.stringify({ inclusion, notes, stamps }));
