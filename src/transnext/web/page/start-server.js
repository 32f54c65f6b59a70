import { start } from "./main.js";
import { open } from "./provider-server.js";

start(open);
