"""The shaded Jackson that the Iceberg jar of the package `snowpark-connect-deps-iceberg` lacks."""

import struct
import zipfile

PACKAGE = "com/fasterxml/jackson"
SHADED = f"org/apache/iceberg/shaded/{PACKAGE}"
TEXT = 1
# The bytes of each other kind of constant, with its tag. Long and double take two places.
# https://docs.oracle.com/javase/specs/jvms/se17/html/jvms-4.html#jvms-4.4
SIZES = {3: 5, 4: 5, 5: 9, 6: 9, 7: 3, 8: 3, 9: 5, 10: 5, 11: 5, 12: 5, 15: 4, 16: 3, 17: 5, 18: 5}
SIZES |= {19: 3, 20: 3}
WIDE = {5, 6}


def with_shaded_names(code):
    """A class file in which the names of packages are those of the shaded ones."""
    [count] = struct.unpack_from(">H", code, 8)
    parts, at, index = [code[:10]], 10, 1
    while index < count:
        tag = code[at]
        if tag == TEXT:
            [length] = struct.unpack_from(">H", code, at + 1)
            text = code[at + 3 : at + 3 + length]
            for separator in ["/", "."]:
                old, new = (name.replace("/", separator).encode() for name in [PACKAGE, SHADED])
                text = text.replace(old, new)
            parts.append(struct.pack(">BH", TEXT, len(text)) + text)
            at += 3 + length
        else:
            parts.append(code[at : at + SIZES[tag]])
            at += SIZES[tag]
        index += 2 if tag in WIDE else 1
    return b"".join(parts) + code[at:]


def write_shaded(jars, target):
    """Makes a jar out of the Jackson in Spark's directory of jars."""
    with zipfile.ZipFile(target, "w") as shaded:
        for part in ["core", "databind", "annotations"]:
            [path] = jars.glob(f"jackson-{part}-2.*.jar")
            with zipfile.ZipFile(path) as jar:
                for name in jar.namelist():
                    if name.startswith(PACKAGE) and name.endswith(".class"):
                        code = with_shaded_names(jar.read(name))
                        shaded.writestr(name.replace(PACKAGE, SHADED), code)
