// From the bytes of an image file to pixels as Python reads them: upright, on white, colour profiles ignored.

const MAX_PIXELS = 2 ** 28; // as RGBA a gigabyte
const STRIP_PIXELS = 2 ** 22; // held a second time while a large image is made smaller

// RGBA of a file as {data: Uint8Array, height, width}; an image at least twice as large as `leastSide` is brought
// near it by averaging squares of pixels, as `read_image(..., min_side)` does.
export async function pixelsOf(blob, leastSide) {
  const bitmap = await decoded(blob);
  try {
    const { width, height } = bitmap;
    if (width * height > MAX_PIXELS) {
      throw new Error(`${nameOf(blob)} has ${width} x ${height} pixels, more than this page takes: make it smaller`);
    }
    const factor = Math.max(1, Math.floor(Math.min(width, height) / leastSide));
    return factor === 1 ? { data: stripOf(bitmap, 0, height), height, width } : reduced(bitmap, factor);
  } finally {
    bitmap.close();
  }
}

// An opaque bitmap of RGB bytes.
export function bitmapOf(rgb, height, width) {
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; to < image.data.length; from += 3, to += 4) {
    image.data[to] = rgb[from];
    image.data[to + 1] = rgb[from + 1];
    image.data[to + 2] = rgb[from + 2];
    image.data[to + 3] = 255;
  }
  return createImageBitmap(image);
}

async function decoded(blob) {
  if (blob.size === 0) throw new Error(`${nameOf(blob)} is empty`);
  try {
    return await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    throw new Error(`${nameOf(blob)} is damaged, or no image that this browser can read`);
  }
}

function nameOf(blob) {
  return blob.name || "the file";
}

// RGBA of some rows, on white.
function stripOf(bitmap, top, rows) {
  const context = new OffscreenCanvas(bitmap.width, rows).getContext("2d", { willReadFrequently: true, alpha: false });
  if (context === null) throw new Error("this browser has not enough memory for the image: make it smaller");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, bitmap.width, rows);
  context.drawImage(bitmap, 0, -top);
  const { data } = context.getImageData(0, 0, bitmap.width, rows);
  return new Uint8Array(data.buffer);
}

function reduced(bitmap, factor) {
  const height = Math.ceil(bitmap.height / factor);
  const width = Math.ceil(bitmap.width / factor);
  const data = new Uint8Array(4 * height * width).fill(255);
  const rows = factor * Math.max(1, Math.floor(STRIP_PIXELS / (bitmap.width * factor)));
  const sums = new Uint32Array(3 * width);
  for (let top = 0; top < bitmap.height; top += rows) {
    const strip = stripOf(bitmap, top, Math.min(rows, bitmap.height - top));
    const stripRows = strip.length / (4 * bitmap.width);
    for (let first = 0; first < stripRows; first += factor) {
      const last = Math.min(first + factor, stripRows);
      sums.fill(0);
      for (let y = first; y < last; y++) {
        for (let x = 0, from = 4 * y * bitmap.width; x < bitmap.width; x++, from += 4) {
          const to = 3 * Math.floor(x / factor);
          sums[to] += strip[from];
          sums[to + 1] += strip[from + 1];
          sums[to + 2] += strip[from + 2];
        }
      }
      let to = 4 * width * ((top + first) / factor);
      for (let x = 0; x < width; x++, to += 4) {
        const count = (last - first) * Math.min(factor, bitmap.width - x * factor);
        for (let c = 0; c < 3; c++) data[to + c] = Math.floor(sums[3 * x + c] / count + 0.5);
      }
    }
  }
  return { data, height, width };
}
