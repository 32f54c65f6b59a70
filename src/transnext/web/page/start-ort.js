import { start } from "./main.js";
import { open } from "./provider-ort.js";

start(open);
