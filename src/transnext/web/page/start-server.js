import { start } from "./main.js";
import { open } from "./provider-server.js";
import { addTabs } from "./server-tabs.js";

await start(open);
if (globalThis.explorer) addTabs(globalThis.explorer);
