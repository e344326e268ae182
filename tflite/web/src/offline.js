// The service worker, which keeps the page, the runtime and opened bundles for when there is no network.

const MOST_WAIT_MS = 3000;

let registered = null;

/** Starts it where the browser has one: on https and localhost. */
export function registerWorker() {
  registered = navigator.serviceWorker?.register(new URL("sw.js", document.baseURI)).catch(() => null) ?? null;
}

/** Waits until it sees what this page fetches, so that even a first visit leaves all that is needed offline. */
export async function whenControlled() {
  if (!registered || navigator.serviceWorker.controller) return;
  const controlled = new Promise((resolve) =>
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true }),
  );
  const given = registered.then((registration) => (registration ? controlled : null));
  await Promise.race([given, new Promise((resolve) => setTimeout(resolve, MOST_WAIT_MS))]);
}
