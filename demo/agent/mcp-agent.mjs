// An agent on the official MCP SDK, unmodified: it calls one tool and prints what came back.
//   node mcp-agent.mjs URL TOOL JSON-ARGUMENTS
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(process.env.MCP_SDK_FROM);
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { Client } = await load('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = await load('@modelcontextprotocol/sdk/client/streamableHttp.js');

const [url, tool, args] = process.argv.slice(2);
const client = new Client({ name: 'demo-agent', version: '1.0.0' });
try {
  await client.connect(new StreamableHTTPClientTransport(new URL(url)));
  const { tools } = await client.listTools();
  console.log('tools offered:', tools.map((t) => t.name).join(', '));
  const result = await client.callTool({ name: tool, arguments: JSON.parse(args) });
  console.log('result:', JSON.stringify(result.content));
} catch (error) {
  console.log('error:', error.message);
  if (error.data) console.log('data:', JSON.stringify(error.data));
  process.exitCode = 1;
} finally {
  await client.close();
}
