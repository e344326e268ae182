// The service worker, which keeps the page, the runtime and opened bundles for when there is no network.

const MOST_WAIT_MS = 3000;

/** The list of bundles that the server has. */
export const LIST = new URL("bundles/index.json", document.baseURI);

let registered = null;

/** Starts it where the browser has one: on https and localhost. */
export function registerWorker() {
  // A first visit asked for the list before the worker could see it.
  navigator.serviceWorker?.addEventListener("controllerchange", () => fetch(LIST).catch(() => null), { once: true });
  registered = navigator.serviceWorker?.register(new URL("sw.js", document.baseURI)).catch(() => null) ?? null;
}

/** Waits until it sees what this page fetches, so that even a first visit leaves all that is needed offline. */
export async function whenControlled() {
  if (!registered || navigator.serviceWorker.controller) return;
  const controlled = new Promise((resolve) =>
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true }),
  );
  // With one that is active already, this page was loaded past it on purpose.
  const given = registered.then((registration) => (registration && !registration.active ? controlled : null));
  await Promise.race([given, new Promise((resolve) => setTimeout(resolve, MOST_WAIT_MS))]);
}
