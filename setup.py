"""Package metadata, read from settings.ini (the single source for pip, nbdev and the docs)."""
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

statuses = ["0 - Pre-Planning", "1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta", "5 - Production/Stable"]
readme = here / "README.md"


def words(key): return shlex.split(cfg.get(key, ""))


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=["arte", "arte.*"]),
    package_data={cfg["lib_path"]: ["core/*.yaml", "recipes/*.yaml", "recipes/accelerate/*.yaml"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=words("requirements"),
    extras_require={o: words(f"{o}_requirements") for o in ("dev", "vllm", "cpu", "server", "ray", "lmeval", "track", "nano")},
    classifiers=[
        "Development Status :: " + statuses[int(cfg["status"])],
        "Intended Audience :: " + cfg["audience"],
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
    ],
    entry_points={
        "console_scripts": words("console_scripts"),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
