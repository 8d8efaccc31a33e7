"""Load exported people into Blender, and look at them through the photograph's camera.

blender --python examples/blender_load.py -- person.glb [more.glb ...]
"""

import sys

import bpy

for file in sys.argv[sys.argv.index("--") + 1 :]:
    bpy.ops.import_scene.gltf(filepath=file)
scene = bpy.context.scene
# The crop of the photograph is a square; this camera sees in it just what the photograph shows.
scene.camera = next(item for item in bpy.data.objects if "orthographic" in item.name)
scene.render.resolution_x = scene.render.resolution_y = 1024
scene.frame_end = max([1, *(round(action.frame_range[1]) for action in bpy.data.actions)])
