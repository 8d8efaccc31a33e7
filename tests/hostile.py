"""Pickles that try to run something: each would create the file `canary` if it were run."""

from __future__ import annotations

import marshal
import pickle
import struct


def packed(value) -> bytes:
    """The opcodes that push a plain value (protocol 2, without its frame and its end)."""
    return pickle.dumps(value, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    """The opcode that pushes a global, in its oldest form."""
    return b"c" + f"{module}\n{name}\n".encode()


def dotted(module: str, name: str) -> bytes:
    """The opcodes of protocol 4, whose names may be attributes of attributes."""
    return b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def simple(module: str, name: str, *arguments) -> bytes:
    return call(named(module, name), *(packed(one) for one in arguments))


def attacks(canary: str) -> dict[str, bytes]:
    """Name to bytes of every pickle."""
    shell, code = f"touch {canary}", f"open({canary!r}, 'w').close()"
    words = ["touch", canary]
    inner = b"\x80\x02" + simple("os", "system", shell) + b"."
    os_system = named("os", "system")
    compiled = marshal.dumps(compile(code, "x", "exec"))
    found = {
        "os.system": simple("os", "system", shell),
        "posix.system": simple("posix", "system", shell),
        "os.popen": simple("os", "popen", shell),
        "os.open": simple("os", "open", canary, 0o101),
        "os.mkdir": simple("os", "mkdir", canary),
        "os.symlink": simple("os", "symlink", "/", canary),
        "subprocess.Popen": simple("subprocess", "Popen", words),
        "subprocess.call": simple("subprocess", "call", words),
        "subprocess.run": simple("subprocess", "run", words),
        "subprocess.check_output": simple("subprocess", "check_output", words),
        "subprocess.getoutput": simple("subprocess", "getoutput", shell),
        "eval": simple("builtins", "eval", code),
        "exec": simple("builtins", "exec", code),
        "python 2 eval": simple("__builtin__", "eval", code),
        "open": simple("builtins", "open", canary, "w"),
        "io.open": simple("io", "open", canary, "w"),
        "io.FileIO": simple("io", "FileIO", canary, "w"),
        "compile and exec": call(
            named("builtins", "exec"), simple("builtins", "compile", code, "x", "exec")
        ),
        "__import__ and getattr": call(
            call(named("builtins", "getattr"), simple("builtins", "__import__", "os"),
                 packed("system")), packed(shell)),
        "getattr of import_module": call(
            call(named("builtins", "getattr"), simple("importlib", "import_module", "os"),
                 packed("system")), packed(shell)),
        "operator.attrgetter": call(
            call(simple("operator", "attrgetter", "system"), simple("builtins", "__import__", "os")),
            packed(shell)),
        "operator.methodcaller": call(
            simple("operator", "methodcaller", "system", shell),
            simple("builtins", "__import__", "os")),
        "functools.partial": call(call(named("functools", "partial"), os_system, packed(shell))),
        "functools.reduce": call(
            named("functools", "reduce"), os_system, packed([shell]), packed(shell)),
        "map": call(
            named("builtins", "list"), call(named("builtins", "map"), os_system, packed([shell]))),
        "filter in a tuple": call(
            named("builtins", "tuple"),
            call(named("builtins", "filter"), os_system, packed([shell]))),
        "types.FunctionType": call(
            call(named("types", "FunctionType"), simple("marshal", "loads", compiled),
                 call(named("builtins", "globals")))),
        "a pickle in a pickle": simple("pickle", "loads", inner),
        "a pickle in a pickle, in C": simple("_pickle", "loads", inner),
        "an Unpickler": call(
            call(named("builtins", "getattr"),
                 call(named("pickle", "Unpickler"), simple("io", "BytesIO", inner)),
                 packed("load"))),
        "timeit": call(
            named("timeit", "timeit"), packed(code), packed("pass"),
            named("time", "perf_counter"), packed(1)),
        "cProfile.run": simple("cProfile", "run", code),
        "code.interpreter": call(
            call(named("builtins", "getattr"), call(named("code", "InteractiveInterpreter")),
                 packed("runsource")), packed(code)),
        "runpy": call(named("runpy", "_run_code"), simple("builtins", "compile", code, "x", "exec"),
                      packed({})),
        "pathlib": call(dotted("pathlib", "Path.touch"), simple("pathlib", "PosixPath", canary)),
        "a dotted name": call(dotted("pathlib", "os.system"), packed(shell)),
        "a dotted name in a known module": call(
            dotted("collections", "_sys.modules.get"), packed("os")) + b"0"
            + call(dotted("numpy", "testing.os.system"), packed(shell)),
        "a dotted name in a known class": call(
            dotted("collections", "OrderedDict.fromkeys"), packed([1])) + b"0"
            + call(dotted("codecs", "builtins.exec"), packed(code)),
        "shutil.copy": simple("shutil", "copy", "/etc/hostname", canary),
        "logging.FileHandler": simple("logging", "FileHandler", canary),
        "numpy.savetxt": simple("numpy", "savetxt", canary, [1.0]),
        "numpy.memmap": simple("numpy", "memmap", canary, "uint8", "w+", 0, 1),
        "numpy.DataSource": simple("numpy.lib.npyio", "DataSource", canary),
        "numpy.load": simple("numpy", "load", canary + ".npy", None, True),
        "numpy's runstring": simple("numpy.testing._private.utils", "runstring", code, {}),
        "torch.load": simple("torch", "load", canary + ".pt"),
        "torch.save": simple("torch", "save", 1, canary),
        "torch.hub": simple("torch.hub", "load", "someone/something", "model"),
        "torch's extension builder": simple(
            "torch.utils.cpp_extension", "load_inline", "x", "int main(){}"),
        "ctypes": call(
            call(named("builtins", "getattr"), simple("ctypes", "CDLL", None), packed("system")),
            packed(shell.encode())),
        "INST": b"(" + packed(shell) + b"ios\nsystem\n",
        "OBJ": b"(" + named("subprocess", "Popen") + packed(words) + b"o",
        "NEWOBJ": named("io", "FileIO") + b"(" + packed(canary) + packed("w") + b"t\x81",
        "NEWOBJ_EX": named("subprocess", "Popen") + b"(" + packed(words) + b"t}\x92",
        "copyreg.__newobj__": call(named("copyreg", "__newobj__"), named("io", "FileIO")),
        "copyreg._reconstructor": call(
            named("copyreg", "_reconstructor"), named("io", "FileIO"),
            named("builtins", "object"), packed(None)) + b"0" + simple("io", "open", canary, "w"),
        "BUILD on a function": (
            named("_codecs", "encode")
            + packed((None, {"__code__": 1, "__defaults__": ("hex",)})) + b"b0"
            + simple("os", "system", shell)),
        "BUILD on a class": (
            named("collections", "OrderedDict")
            + packed((None, {"__init__": 1})) + b"b0" + simple("os", "system", shell)),
        "an extension code": b"\x82\x01" + b"0" + simple("os", "system", shell),
        "a persistent identity": packed("storage") + b"Q0" + simple("os", "system", shell),
        "an array of a foreign type": call(
            named("numpy.core.multiarray", "_reconstruct"), named("subprocess", "Popen"),
            packed((0,)), packed(b"b")) + b"0" + simple("os", "system", shell),
        "an encoding that is a module": simple("_codecs", "encode", "x", "os") + b"0"
            + simple("os", "system", shell),
        "a call after the data": packed([{"file_name": "a"}]) + b"0"
            + simple("os", "system", shell),
        "a call in a dict": b"}" + packed("file_name") + simple("os", "system", shell) + b"s",
    }  # fmt: skip
    return {name: b"\x80\x04" + content + b"." for name, content in found.items()}


def exhausting() -> dict[str, bytes]:
    """Small pickles that ask for all of the memory, or for ever."""
    dtype = simple("numpy", "dtype", "f8", False, True)
    objects = simple("numpy", "dtype", "O", False, True)

    def array(kind: bytes, shape, content) -> bytes:
        empty = call(
            named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"),
            packed((0,)), packed("b"),
        )  # fmt: skip
        return (
            empty
            + b"("
            + packed(1)
            + packed(shape)
            + kind
            + packed(False)
            + packed(content)
            + b"tb"
        )

    twice = b")" + b"2\x86" * 60  # ((..), (..)) doubled sixty times
    found = {
        "a memo of two thousand million entries": b"Kr" + struct.pack("<I", 0x7FFFFFFF),
        "bytes of a terabyte": b"\x8e" + struct.pack("<Q", 1 << 40),
        "a bytearray of a terabyte": b"\x96" + struct.pack("<Q", 1 << 40),
        "text of a terabyte": b"\x8d" + struct.pack("<Q", 1 << 40),
        "a frame of a terabyte": b"\x95" + struct.pack("<Q", 1 << 40) + b"N",
        "zeros of a terabyte": simple("builtins", "bytearray", 1 << 40),
        "an array of a terabyte": simple("numpy", "ndarray", (1 << 40,)),
        "an array larger than its content": array(dtype, (1 << 40,), b"12345678"),
        "objects fewer than their shape": array(objects, (1000,), [None]),
        "numbers for objects": array(objects, (1,), b"12345678"),
        "lists in lists in lists": b"]" * 100_000 + b"a" * 99_999,
        "a key of tuples in tuples": b"}" + twice + b"Ns",
        "a set of tuples in tuples": call(named("builtins", "set"), b"]" + twice + b"a"),
        "a type of a terabyte": simple("numpy", "dtype", f"V{1 << 40}"),
        "a number of a million digits": simple("builtins", "int", "9" * 1_000_000),
    }
    return {name: b"\x80\x04" + content + b"." for name, content in found.items()}
