import { start } from "./main.js";
import { open } from "./provider-server.js";
import { addTools } from "./server-tools.js";

await start(open);
if (globalThis.explorer) addTools(globalThis.explorer);
