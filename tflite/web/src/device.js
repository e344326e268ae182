// What this browser calls itself, in a few words.

const BROWSERS = [
  [/Edg\/(\d+)/, "Edge"],
  [/Firefox\/(\d+)/, "Firefox"],
  [/(?:Headless)?Chrome\/(\d+)/, "Chromium"],
  [/Version\/(\d+).*Safari/, "Safari"],
];

/** Browser, major version and platform, such as "Chromium 156 on Linux x86_64". */
export function deviceName() {
  const agent = navigator.userAgent;
  const [pattern, name] = BROWSERS.find(([candidate]) => candidate.test(agent)) ?? [];
  const browser = pattern ? `${name} ${agent.match(pattern)[1]}` : "an unknown browser";
  const platform = navigator.userAgentData?.platform ?? "";
  return `${browser} on ${platformName(agent, platform)}`;
}

/** Whether this is iOS; an iPad calls itself a Mac. */
export function isIos() {
  const isTouchedMac = /Mac/.test(navigator.platform) && navigator.maxTouchPoints > 1;
  return /iPhone|iPad|iPod/.test(navigator.userAgent) || isTouchedMac;
}

function platformName(agent, platform) {
  if (isIos()) return "iOS";
  if (/Android/.test(agent)) return "Android";
  return navigator.platform || platform || "an unknown platform";
}
