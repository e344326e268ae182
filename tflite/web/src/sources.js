// Where the files of a bundle come from. A source has one method: read(name, sha256), the bytes of a file.

import { CannotRun } from "./errors.js";

/** A folder on the server of this page. */
export function fromUrl(url) {
  const folder = new URL(url.endsWith("/") ? url : `${url}/`, document.baseURI);
  return {
    async read(name, sha256) {
      const file = new URL(name.split("/").map(encodeURIComponent).join("/"), folder);
      // Files that are known by their hash never change, so the service worker need not ask for them twice.
      if (sha256) file.searchParams.set("sha256", sha256);
      const response = await fetchOrExplain(file, name);
      if (!response.ok) throw new CannotRun(`The bundle must have ${name}, and has not: see ${folder.pathname}.`);
      return new Uint8Array(await response.arrayBuffer());
    },
  };
}

async function fetchOrExplain(file, name) {
  try {
    return await fetch(file);
  } catch {
    throw new CannotRun(`${name} could not be fetched. Open the bundle once while you are online.`);
  }
}

/** Files that were picked or dropped: those of one folder, or one .zip. */
export async function fromFiles(files) {
  const picked = Array.from(files, (file) => ({ path: file.webkitRelativePath || file.path || file.name, file }));
  if (picked.length === 1 && /\.zip$/i.test(picked[0].path)) return fromZip(picked[0].file);
  // A flat pick of a golden file has lost its folder.
  return fromEntries(
    picked.map(({ path, file }) => [path.includes("/") || !path.endsWith(".bin") ? path : `golden/${path}`, file]),
    async (file) => new Uint8Array(await (file.file ?? file).arrayBuffer()),
  );
}

/** What was dropped, folders with all that is in them. */
export async function fromDrop(transfer) {
  // Entries are gone after the first await.
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return fromFiles(transfer.files);
  return fromFiles((await Promise.all(entries.map(filesBelow))).flat());
}

async function filesBelow(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    const path = entry.fullPath.replace(/^\//, "");
    return [{ path, name: file.name, file, arrayBuffer: () => file.arrayBuffer() }];
  }
  const reader = entry.createReader();
  const found = [];
  // A reader gives at most 100 entries at once.
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) break;
    found.push(...(await Promise.all(entries.map(filesBelow))).flat());
  }
  return found;
}

async function fromZip(file) {
  const { unzipSync } = await import("fflate");
  const content = new Uint8Array(await file.arrayBuffer());
  let unpacked;
  try {
    unpacked = unzipSync(content);
  } catch {
    throw new CannotRun(`${file.name} must be a .zip file, and is damaged or something else. Copy it again.`);
  }
  return fromEntries(Object.entries(unpacked), async (bytes) => bytes);
}

/** A source of [path, content] pairs; the bundle is the folder with the model.json that lies highest. */
function fromEntries(entries, bytesOf) {
  const manifests = entries.map(([path]) => path).filter((path) => /(^|\/)model\.json$/.test(path));
  if (!manifests.length) {
    const received = entries.length === 1 ? entries[0][0] : `${entries.length} files without it`;
    throw new CannotRun(`A bundle must have a model.json. Received: ${received}. Choose its folder, or a .zip of it.`);
  }
  const depth = (path) => path.split("/").length;
  const folder = manifests.sort((a, b) => depth(a) - depth(b))[0].slice(0, -"model.json".length);
  const byName = new Map(
    entries.filter(([path]) => path.startsWith(folder)).map(([path, content]) => [path.slice(folder.length), content]),
  );
  return {
    async read(name) {
      if (!byName.has(name)) throw new CannotRun(`The bundle must have ${name}, and has not. Choose its whole folder.`);
      return bytesOf(byName.get(name));
    },
  };
}
