"""Run by Blender: the vertices of a GLB that examples/blender_load.py loads, frame by frame.

blender --background --python blender_vertices.py -- person.glb out.npz [frame ...]
"""

import runpy
import sys
from pathlib import Path

import bpy
import numpy as np

EXAMPLE = Path(__file__).parents[1] / "examples" / "blender_load.py"

glb, out, *frames = sys.argv[sys.argv.index("--") + 1 :]
bpy.ops.wm.read_factory_settings(use_empty=True)
sys.argv = [str(EXAMPLE), "--", glb]
runpy.run_path(str(EXAMPLE))
scene = bpy.context.scene
body = next(item for item in bpy.data.objects if item.find_armature())
found = []
for frame in frames or ["1"]:
    scene.frame_set(int(frame))
    shown = body.evaluated_get(bpy.context.evaluated_depsgraph_get())
    vertices = np.array([shown.matrix_world @ vertex.co for vertex in shown.data.vertices])
    # Blender's z is up; glTF's y is.
    found.append(vertices[:, [0, 2, 1]] * [1, 1, -1])
np.savez(out, vertices=np.stack(found), camera=scene.camera.name, frame_end=scene.frame_end)
