#!/usr/bin/env node
// solc for forge: npm's compiler behind the native compiler's command line.
// `--version` answers as the native one does; otherwise standard JSON, stdin to stdout.
const solc = require('solc');
if (process.argv.includes('--version')) {
  const v = solc.version().replace('.Emscripten.clang', '.Linux.g++');
  console.log(`solc, the solidity compiler commandline interface\nVersion: ${v}`);
} else {
  process.stdout.write(solc.compile(require('fs').readFileSync(0, 'utf8')));
}
