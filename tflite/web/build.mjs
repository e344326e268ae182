// Builds dist/: the page, bundled; the runtime beside it; the bundles that were found; the service worker's list.
//
//     npm run build        BUNDLES=dir[,dir] names other bundles, DIST=dir another place

import { createHash } from "node:crypto";
import { copyFile, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

import { FORMAT_VERSION } from "./src/bundle.js";
import { checkEdges } from "./src/edges.js";
import { kindOf } from "./src/kinds.js";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const ROOT = path.resolve(HERE, "../..");
const SRC = path.join(HERE, "src");
const DIST = path.resolve(process.env.DIST || path.join(HERE, "dist"));
const LITERT = path.join(HERE, "node_modules/@litertjs/core");
const STATIC = ["index.html", "manifest.webmanifest", "icon.svg", "icon-192.png", "icon-512.png"];
// The builds with threads or suspended calls are never asked for: they need a page that is isolated from others.
const WASM = ["litert_wasm_internal", "litert_wasm_compat_internal"];
const DEEPEST = 3;
const MOST_PAGE_BYTES = 1e6;

const litertVersion = JSON.parse(await readFile(path.join(LITERT, "package.json"), "utf8")).version;
const options = {
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022", "safari16.4"],
  define: { LITERT_VERSION: JSON.stringify(litertVersion) },
  outdir: DIST,
  logLevel: "warning",
};

await rm(DIST, { recursive: true, force: true });
await mkdir(path.join(DIST, "wasm"), { recursive: true });
await build({ ...options, entryPoints: ["app.js", "app.css"].map((name) => path.join(SRC, name)), splitting: true });
for (const name of STATIC) await copyFile(path.join(SRC, name), path.join(DIST, name));
const pageFiles = await filesIn(DIST);
const pageHash = await hashOf(pageFiles);
await build({
  ...options,
  entryPoints: [path.join(SRC, "sw.js")],
  format: "iife",
  define: {
    ...options.define,
    PAGE_FILES: JSON.stringify(["./", ...pageFiles.filter((name) => name !== "index.html")]),
    PAGE_HASH: JSON.stringify(pageHash),
  },
});
for (const name of WASM.flatMap((stem) => [`${stem}.js`, `${stem}.wasm`])) {
  await copyFile(path.join(LITERT, "wasm", name), path.join(DIST, "wasm", name));
}
const bundles = await copyBundles();
await report();

async function filesIn(folder) {
  const entries = await readdir(folder, { withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => entry.name).sort();
}

async function hashOf(names) {
  const hash = createHash("sha256");
  for (const name of names) hash.update(name).update(await readFile(path.join(DIST, name)));
  return hash.digest("hex").slice(0, 16);
}

/** Copies each bundle's files and lists them in bundles/index.json. */
async function copyBundles() {
  const listed = [];
  for (const folder of await bundleFolders()) {
    const manifest = JSON.parse(await readFile(path.join(folder, "model.json"), "utf8"));
    const refused = refusal(manifest);
    if (refused) {
      console.log(`left out: ${path.relative(ROOT, folder)} (${refused})`);
      continue;
    }
    const name = freeName(folder, listed);
    const files = ["model.json", ...Object.keys(manifest.files)];
    for (const file of files) {
      const target = path.join(DIST, "bundles", name, file);
      await mkdir(path.dirname(target), { recursive: true });
      await copyFile(path.join(folder, file), target);
    }
    const { kind } = kindOf(manifest);
    const bytes = manifest.files["model.tflite"].bytes;
    listed.push({ path: `bundles/${name}`, name: manifest.name, kind, recipe: manifest.recipe, bytes });
  }
  // Models of one name are told apart by their folders.
  const names = listed.map((bundle) => bundle.name);
  for (const [place, name] of names.entries()) {
    if (names.indexOf(name) !== names.lastIndexOf(name)) listed[place].name = path.basename(listed[place].path);
  }
  await mkdir(path.join(DIST, "bundles"), { recursive: true });
  await writeFile(path.join(DIST, "bundles/index.json"), `${JSON.stringify(listed, null, 2)}\n`);
  return listed;
}

async function bundleFolders() {
  if (process.env.BUNDLES) return process.env.BUNDLES.split(",").filter(Boolean).map((name) => path.resolve(name));
  const built = await bundlesBelow(path.join(ROOT, "build"), DEEPEST);
  return built.length ? built : bundlesBelow(path.join(ROOT, "tflite/testdata"), 1);
}

async function bundlesBelow(folder, depth) {
  if (!existsSync(folder)) return [];
  if (["model.json", "model.tflite", "golden"].every((name) => existsSync(path.join(folder, name)))) return [folder];
  if (depth === 0) return [];
  const entries = (await readdir(folder, { withFileTypes: true })).filter((entry) => entry.isDirectory());
  const names = entries.map((entry) => entry.name).sort();
  return (await Promise.all(names.map((name) => bundlesBelow(path.join(folder, name), depth - 1)))).flat();
}

/** Why LiteRT.js could not run a bundle; null if it can. */
function refusal(manifest) {
  if (manifest.format_version !== FORMAT_VERSION) return `format_version ${manifest.format_version}`;
  try {
    checkEdges(manifest);
    return null;
  } catch (error) {
    return error.message;
  }
}

function freeName(folder, listed) {
  const relative = path.relative(path.join(ROOT, "build"), folder);
  const plain = (relative.startsWith("..") ? path.basename(folder) : relative).replace(/[^A-Za-z0-9._-]+/g, "-");
  const taken = new Set(listed.map((entry) => entry.path));
  for (let count = 1; ; count++) {
    const name = count === 1 ? plain : `${plain}-${count}`;
    if (!taken.has(`bundles/${name}`)) return name;
  }
}

/** Sizes: of the page without model and runtime, and of the build of the runtime that a browser fetches. */
async function report() {
  const bytesOf = async (names) => {
    const sizes = await Promise.all(names.map(async (name) => (await stat(path.join(DIST, name))).size));
    return sizes.reduce((total, size) => total + size, 0);
  };
  const page = await bytesOf([...pageFiles, "sw.js"]);
  const runtime = await bytesOf([".js", ".wasm"].map((ending) => `wasm/${WASM[0]}${ending}`));
  console.log(`page ${page} bytes, runtime ${runtime} bytes, bundles: ${bundles.map(({ name }) => name).join(", ")}`);
  if (page >= MOST_PAGE_BYTES) throw new Error(`The page must be < ${MOST_PAGE_BYTES} bytes. Received: ${page}.`);
}
