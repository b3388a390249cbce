"""The folders of NVIDIA's Python packages that have cuBLASLt, for LD_LIBRARY_PATH; printed when run as a program."""
import glob
import os
import site
import sys


def folders():
    paths = [path for path in sys.path if path] + [site.getusersitepackages()]
    found = {os.path.dirname(f) for path in paths for f in glob.glob(path + "/nvidia/*/lib/libcublasLt.so.*")}
    return sorted(found)


def search_path():
    """LD_LIBRARY_PATH with those folders behind what it has."""
    return ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH")] + folders()))


if __name__ == "__main__":
    print(search_path())
