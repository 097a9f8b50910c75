"""Writes the groups of ImageNet's classes that ship, from the hypernyms of WordNet 3.0.

    apt-get install wordnet-base
    python benchmarks/label_groups.py [--wordnet /usr/share/wordnet/data.noun]

A class belongs to the first group of a level one of whose synsets is among its hypernyms. Levels
are nested: a kind belongs to one family whole, and a family to one realm.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from denoised_smoothing.certificates.groups import label_ranges
from denoised_smoothing.models.labels import imagenet_classes
from denoised_smoothing.models.shipped import shipped_folder

TITLE = """\
# Groups of the 1,000 classes of ImageNet (ILSVRC 2012), by their numbers in the usual order, from
# fine to coarse. Written by benchmarks/label_groups.py from the hypernyms of WordNet 3.0.
# WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Its license
# (https://wordnet.princeton.edu/license-and-commercial-use) permits use, copies and changes for
# any purpose without fee, with this notice. THE DATABASE IS PROVIDED "AS IS", AND PRINCETON
# UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED.
"""
LEVELS = {  # names, and the synsets whose hyponyms they are
    "kinds": {
        "dog": "02084071", "wolf": "02114100", "fox": "02118333", "big cat": "02127808",
        "cat": "02121620", "bear": "02131653", "mustelid": "02441326", "rodent": "02329401",
        "rabbit or hare": "02323902", "monkey": "02484322", "ape": "02470325",
        "elephant": "02503517", "cattle, sheep or antelope": "02401031", "swine": "02395003",
        "whale": "02062744", "marsupial": "01874434", "songbird": "01524359",
        "bird of prey": "01604330", "parrot": "01816887", "fowl": "01789386",
        "duck or goose": "01845132", "wading bird": "02000954", "snake": "01726692",
        "lizard": "01674464", "turtle": "01662784", "crocodilian": "01696633",
        "frog": "01639765", "salamander": "01629276", "shark or ray": "01480516",
        "bony fish": "02514825", "spider": "01772222", "butterfly": "02274259",
        "beetle": "02164464", "crab": "01976957", "mollusk": "01940736",
        "bus": "02924116", "truck": "04490091", "car": "02958343", "boat or ship": "04530566",
        "aircraft": "02686568", "bicycle": "02834778", "keyboard instrument": "03614532",
        "stringed instrument": "04338517",
        "wind instrument": "04586932", "percussion instrument": "03915437",
        "timepiece": "04437953",
        "gun": "03467984", "ball": "02778669", "bottle": "02876657", "bag": "02773037",
        "footwear": "03380867", "headgear": "03502509", "garment": "03419014",
        "seat": "04161981", "shop": "04202417", "house": "03259505", "fence": "03327234",
        "bread": "07679356", "vegetable": "07707451", "fruit": "07705931", "drink": "07881800",
        "dish": "07557434",
    },
    "families": {
        "mammal": "01861778", "bird": "01503061", "reptile": "01661091", "amphibian": "01627424",
        "fish": "02512053", "invertebrate": "01905661", "vehicle": "04524313 04019101",
        "musical instrument": "03800933", "clothing": "03051540 03380867 03502509",
        "furniture": "03405725", "weapon": "04565375",
        "building or structure": "04341686 04202417",
        "tool or utensil": "03563967", "sports or game equipment": "03414162",
        "appliance": "02729837", "container": "03094503", "device": "03183080",
        "fungus": "12992868", "food or fruit": "00021265 07555863 07705931 13134947 07881800",
        "landform": "09287968",
    },
    "realms": {
        "animal": "00015388", "artifact": "00021939",
        "food, fruit or fungus": "12992868 00021265 07555863 07705931 13134947 07881800",
        "landform": "09287968",
    },
}  # fmt: skip


def hypernyms(path: Path) -> dict[str, set[str]]:
    """Return the direct hypernyms of each synset of a file ``data.noun``, by their offsets."""
    found = {}
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("  "):
            continue
        fields = line.partition(" | ")[0].split()
        at = 4 + 2 * int(fields[3], 16)
        pointers = fields[at + 1 :]
        found[fields[0]] = {
            pointers[k + 1] for k in range(0, 4 * int(fields[at]), 4) if pointers[k] in ("@", "@i")
        }
    return found


def above(synset: str, direct: dict[str, set[str]]) -> set[str]:
    """Return a synset and all its hypernyms."""
    found, left = {synset}, [synset]
    while left:
        new = direct[left.pop()] - found
        found |= new
        left += new
    return found


def grouped(direct: dict[str, set[str]]) -> dict[str, dict[str, list[int]]]:
    """Return the numbers of the classes of each group, by level, fine levels first."""
    levels: dict[str, dict[str, list[int]]] = {level: {} for level in LEVELS}
    for number, wordnet in enumerate(imagenet_classes()):
        known = above(wordnet[1:], direct)
        for level, groups in LEVELS.items():
            for name, synsets in groups.items():
                hits = known & set(synsets.split())
                if hits:
                    levels[level].setdefault(name, []).append(number)
                    # A coarser level sees what the group is, not what else the class is.
                    known = set().union(*(above(hit, direct) for hit in hits))
                    break
    return levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, default="/usr/share/wordnet/data.noun")
    levels = grouped(hypernyms(parser.parse_args().wordnet))
    text = TITLE
    for level, groups in levels.items():
        text += f"[{level}]\n"
        text += "".join(f"{name} = {label_ranges(groups[name])}\n" for name in LEVELS[level])
    shipped_folder("imagenet_groups.txt").write_text(text, encoding="utf-8")
    for level, groups in levels.items():
        print(f"{level}: {len(groups)} groups of {sum(map(len, groups.values()))} classes")


if __name__ == "__main__":
    main()
