"""Package metadata, read from settings.ini (the single source for pip, nbdev and the docs)."""

import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

statuses = [
    "0 - Pre-Planning",
    "1 - Planning",
    "2 - Pre-Alpha",
    "3 - Alpha",
    "4 - Beta",
    "5 - Production/Stable",
]
readme, source = here / "README.md", cfg["git_url"]


EXTRAS = "dev vllm cpu quantize server ray lmeval track nutpie nano".split()


def words(key):
    return shlex.split(cfg.get(key, ""))


def description():
    "The README, its pictures at their place on GitHub: a package index has only the text."
    raw = f"https://raw.githubusercontent.com/{cfg['user']}/{cfg['repo']}/{cfg['branch']}"
    return (
        readme.read_text(encoding="utf-8").replace("](index_files/", f"]({raw}/index_files/")
        if readme.exists()
        else ""
    )


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=description(),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    url=source,
    project_urls={
        "Documentation": f"{cfg['doc_host']}{cfg['doc_baseurl']}",
        "Source": source,
        "Issues": f"{source}/issues",
        "Changelog": f"{source}/blob/{cfg['branch']}/CHANGELOG.md",
    },
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=["arte", "arte.*"]),
    package_data={
        cfg["lib_path"]: [
            "py.typed",
            "core/*.yaml",
            "data/*.yaml",
            "recipes/*.yaml",
            "recipes/accelerate/*.yaml",
        ]
    },
    python_requires=">=" + cfg["min_python"],
    install_requires=words("requirements"),
    extras_require={o: words(f"{o}_requirements") for o in EXTRAS},
    classifiers=[
        "Development Status :: " + statuses[int(cfg["status"])],
        "Intended Audience :: " + cfg["audience"],
        "Framework :: Jupyter",
        "Natural Language :: English",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: {version}" for version in cfg["pythons"].split()),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    entry_points={
        "console_scripts": words("console_scripts"),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
