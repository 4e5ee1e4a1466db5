// Where episodes come from: the server that gave this page, or the page itself.

const DATA = JSON.parse(byId("data").textContent);
const TABLE = DATA.table;

// An episode as the server packs it: the length of a JSON header, the header, float32 columns.
function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const episode = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const [name, rows, width] of episode.arrays) {
    episode[name] = { rows, width, values: new Float32Array(buffer, at, rows * width) };
    at += 4 * rows * width;
  }
  return episode;
}
// Column k of an array as a list of T numbers.
const column = ({ rows, width, values }, k) => Array.from({ length: rows }, (_, t) => values[t * width + k]);

async function bytes(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error((await answer.text()) || `${address}: ${answer.status}`);
  return answer.arrayBuffer();
}
const decode = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;

const source = DATA.embedded ? {
  episode: async (i) => unpack(decode(DATA.embedded.episodes[i])),
  outcomes: async () => DATA.embedded.outcomes,
  clip: (i, camera) => DATA.embedded.clips[i][camera],
  picture: null,
} : {
  episode: async (i) => unpack(await bytes(`episodes/${TABLE.number[i]}`)),
  outcomes: async () => Array.from(new Uint8Array(await bytes("outcomes"))),
  clip: (i, camera) => `episodes/${TABLE.number[i]}/cameras/${camera}`,
  picture: (i, camera, step) => `episodes/${TABLE.number[i]}/cameras/${camera}/${step}`,
};

// The channels of a list by body: what comes before the last slash, and one unit each.
// More than five streams are shown four at a time.
function bodies(channels) {
  const groups = new Map();
  channels.forEach((channel, index) => {
    const cut = channel.name.lastIndexOf("/");
    const body = cut < 0 ? channel.name : channel.name.slice(0, cut), last = channel.name.slice(cut + 1);
    const kind = /^(q|quat_?)[0-3wxyz]$/.test(last) ? "rotation" : channel.unit;
    const key = JSON.stringify([body, kind, channel.role]);
    if (!groups.has(key)) groups.set(key, { body, unit: channel.unit, streams: [] });
    groups.get(key).streams.push({ name: last, index });
  });
  return [...groups.values()].flatMap((group) => {
    const parts = group.streams.length > 5 ? Math.ceil(group.streams.length / 4) : 1;
    const each = Math.ceil(group.streams.length / parts);
    return Array.from({ length: parts }, (_, k) => ({ ...group, streams: group.streams.slice(k * each, (k + 1) * each) }));
  });
}

// [x, y, z] columns of each body that has a place: hand/x hand/y hand/z.
function places(channels) {
  const index = new Map(channels.map((channel, k) => [channel.name, k]));
  return channels.filter((channel) => /(^|\/)x$/.test(channel.name)).map((channel) => {
    const stem = channel.name.slice(0, -1);
    return { body: stem.replace(/\/$/, ""), role: channel.role, columns: ["x", "y", "z"].map((axis) => index.get(stem + axis)) };
  }).filter(({ columns }) => columns.every((k) => k !== undefined));
}
