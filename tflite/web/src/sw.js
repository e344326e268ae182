// Keeps the page for offline use. PAGE_FILES and PAGE_HASH are put in by the build.

const PAGE = `page-${PAGE_HASH}`;
const RUNTIME = `runtime-${LITERT_VERSION}`;
const BUNDLES = "bundles";
const PATIENCE_MS = 4000;

addEventListener("install", (event) => {
  const requests = PAGE_FILES.map((file) => new Request(file, { cache: "reload" }));
  // At once, so that the next load is the new page; one that is open finds its own files in the cache before.
  event.waitUntil(caches.open(PAGE).then((cache) => cache.addAll(requests)).then(() => skipWaiting()));
});

addEventListener("activate", (event) => {
  event.waitUntil(dropOld().then(() => clients.claim()));
});

/** All caches of builds before the last, and of other runtimes. */
async function dropOld() {
  const names = await caches.keys();
  const pages = names.filter((name) => name.startsWith("page-") && name !== PAGE).slice(0, -1);
  const runtimes = names.filter((name) => name.startsWith("runtime-") && name !== RUNTIME);
  await Promise.all([...pages, ...runtimes].map((name) => caches.delete(name)));
}

addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  const path = url.href.slice(registration.scope.length).split(/[?#]/)[0];
  if (path.startsWith("wasm/")) event.respondWith(cacheFirst(RUNTIME, request));
  else if (path === "" || PAGE_FILES.includes(path)) event.respondWith(pageFile(request));
  else if (/^[^/]+\.js$/.test(path)) event.respondWith(fileBefore(request));
  else if (url.searchParams.has("sha256")) event.respondWith(cacheFirst(BUNDLES, request));
  else event.respondWith(networkFirst(BUNDLES, request));
});

async function pageFile(request) {
  const cache = await caches.open(PAGE);
  // The address says what to open; the page is the same.
  return (await cache.match(request, { ignoreSearch: true })) ?? fetch(request);
}

/** A module of the build before, for a page that is still open. */
async function fileBefore(request) {
  return (await caches.match(request)) ?? fetch(request);
}

async function cacheFirst(name, request) {
  const cache = await caches.open(name);
  const found = await cache.match(request);
  if (found) return found;
  const response = await fetch(request);
  if (response.ok) await replace(cache, request, response.clone());
  return response;
}

/** What may change is asked for again; a network that does not answer counts as none. */
async function networkFirst(name, request) {
  const cache = await caches.open(name);
  const found = await cache.match(request);
  const fetched = fetch(request).then(async (response) => {
    if (response.ok) await replace(cache, request, response.clone());
    return response;
  });
  if (!found) return fetched;
  fetched.catch(() => {});
  const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS, found));
  return Promise.race([fetched.catch(() => found), patience]);
}

async function replace(cache, request, response) {
  try {
    // An older version of the file has another hash in its query.
    await cache.delete(request, { ignoreSearch: true });
    await cache.put(request, response);
  } catch {
    // A full disk: the answer is still good, it is only not kept.
  }
}
