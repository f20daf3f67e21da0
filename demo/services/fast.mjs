// A plain HTTP service that costs as little as it can, so that a measurement shows the path and not
// the target:  node fast.mjs ADDRESS PORT
import { createServer } from 'node:http';

const [address, port] = process.argv.slice(2);
const body = Buffer.from('{"ok":true}');
createServer((request, response) => {
  request.resume();
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
  response.end(body);
}).listen(Number(port), address);
